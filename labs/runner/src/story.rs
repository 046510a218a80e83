//! Where the files of a story come from: a folder, or the program itself, which carries those below `labs/`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::error::LabError;

/// The stories in the program: name, and files by name.
const CARRIED: &[(&str, &[(&str, &str)])] = include!(concat!(env!("OUT_DIR"), "/labs.rs"));

/// In place of the folder that stories in the program are in.
const INSIDE: &str = "labs:";

/// The names of the stories in the program.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CARRIED.iter().map(|(name, _)| *name)
}

/// The folder of a story: given as a path, or by the name of a folder below `labs/` here or above, or of one in the program.
pub(super) fn folder(story: &str) -> Result<PathBuf, LabError> {
    let is_story = |folder: &Path| folder.join("topology.toml").is_file();
    let here = std::env::current_dir().map_err(LabError::file("."))?;
    let below_labs = here.ancestors().map(|folder| folder.join("labs").join(story));
    let mut candidates = std::iter::once(here.join(story)).chain(below_labs);
    if let Some(found) = candidates.find(|folder| is_story(folder)) {
        return found.canonicalize().map_err(LabError::file(&found));
    }
    let name = story.trim_end_matches('/');
    let name = name.strip_prefix("labs/").or_else(|| name.strip_prefix("labs:/")).unwrap_or(name);
    let carried = names().find(|carried| *carried == name);
    carried.map(|name| Path::new(INSIDE).join(name)).ok_or_else(|| LabError::NoStory(story.into()))
}

/// The text of a file of a story.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let Ok(inside) = path.strip_prefix(INSIDE) else {
        // Opening a pipe waits for a writer.
        return match fs::metadata(path)?.is_file() {
            true => fs::read_to_string(path),
            false => Err(io::Error::other("it is no regular file")),
        };
    };
    let (name, file) = (inside.parent(), inside.file_name());
    let story = CARRIED.iter().find(|(carried, _)| name == Some(Path::new(carried)));
    let found = story.and_then(|(_, files)| files.iter().find(|(carried, _)| file == Some(carried.as_ref())));
    found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lab_of_the_repository_is_carried_as_it_is() {
        let labs = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = 0;
        for entry in fs::read_dir(labs).unwrap() {
            let lab = entry.unwrap().path();
            if !lab.join("topology.toml").is_file() {
                continue;
            }
            let name = lab.file_name().unwrap().to_str().unwrap().to_owned();
            for file in ["topology.toml", "eastgate.toml"] {
                let carried = read(&Path::new(INSIDE).join(&name).join(file)).unwrap();
                assert_eq!(carried, fs::read_to_string(lab.join(file)).unwrap(), "{name}/{file}");
            }
            assert!(super::super::Model::read(&Path::new(INSIDE).join(&name)).is_ok(), "{name}");
            found += 1;
        }
        assert!(found >= 4 && names().count() == found);
    }
}
