//! The examples that users copy are good.

use std::path::PathBuf;

use eastgate_config::Loader;

use crate::{folder, toml_files};

pub(crate) fn examples() -> Vec<PathBuf> {
    let mut files = toml_files(&folder("configs"));
    files.push(folder("configs/folder/eastgate.toml"));
    files
}

#[test]
fn examples_load_without_a_warning() {
    let files = examples();
    assert!(files.len() >= 6);
    for path in files {
        let mut loader = Loader::new(&path);
        let config = loader.load().unwrap_or_else(|found| panic!("{found}"));
        assert!(loader.warnings().is_empty(), "{}", loader.warnings());
        assert!(!config.hosts.is_empty() && config.networks().count() > 0, "{}", path.display());
    }
}
