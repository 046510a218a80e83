//! Reads a configuration from its files, and again when they changed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    slice,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use super::{
    check::{self, FileContent},
    cross::{Good, Whole},
    diagnostics::{Diagnostics, Found},
    include,
    model::Config,
    place::{Place, Source},
    problem::{Diagnostic, Problem},
};

/// Files larger than this are refused: hundreds of thousands of endpoints fit into it.
const LARGEST: u64 = 256 << 20;

/// A file that was written to more recently than this before it was read may have been written to again without
/// its time stamp showing it.
const STAMP_GRAIN: Duration = Duration::from_secs(2);

/// Loads one configuration, again and again: only files that changed are read, and a bad one changes nothing.
#[derive(Debug)]
pub struct Loader {
    path: PathBuf,
    files: HashMap<PathBuf, Cached>,
    good: Option<Good>,
    warnings: Diagnostics,
}

#[derive(Debug)]
struct Cached {
    stamp: Stamp,
    content: Arc<FileContent>,
}

/// What shows that a file is the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether the times are old enough to show every later change.
    settled: bool,
}

impl Loader {
    /// A loader of the configuration in the file `path` and what that includes. Reads nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files: HashMap::new(), good: None, warnings: Diagnostics::default() }
    }

    /// Loads what the files say now. Tenants whose file did not change are the same [`Arc`] as before; so is the
    /// whole if nothing changed.
    ///
    /// # Errors
    /// Everything that is wrong, and all warnings; [`Loader::last_good`] stays as it was.
    pub fn load(&mut self) -> Result<Arc<Config>, Diagnostics> {
        let mut found = Found::default();
        let path = self.path.clone();
        let first = match self.fetch(slice::from_ref(&path), false).pop() {
            Some(Err(error)) => Arc::new(unreadable_first(&self.path, &error)),
            Some(Ok(content)) => content,
            None => return Err(Diagnostics::default()),
        };
        let (paths, places) = self.included(&first, &mut found);
        let mut contents = vec![first];
        for ((path, at), content) in paths.iter().zip(places).zip(self.fetch(&paths, true)) {
            match content {
                Ok(content) => contents.push(content),
                Err(error) => found.push(Diagnostic::new(unreadable(&path.to_string_lossy(), &error), at)),
            }
        }
        let complete = found.is_empty();
        let used: HashSet<&PathBuf> = paths.iter().chain([&self.path]).collect();
        self.files.retain(|path, _| used.contains(path));
        self.bring_together(&contents, found, complete)
    }

    /// The last configuration that was good.
    #[must_use]
    pub fn last_good(&self) -> Option<&Arc<Config>> {
        self.good.as_ref().map(Good::config)
    }

    /// What was not wrong but odd in the last good configuration.
    #[must_use]
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    fn bring_together(
        &mut self,
        contents: &[Arc<FileContent>],
        mut found: Found,
        complete: bool,
    ) -> Result<Arc<Config>, Diagnostics> {
        let mut whole = Whole::new(contents, self.good.as_ref(), complete);
        whole.check(self.good.as_ref());
        // What is wrong with a file by itself comes first: what it says together with others may follow from that.
        contents.iter().for_each(|content| found.append(&content.found));
        found.append(&whole.take_diagnostics());
        let errors_or_tenants =
            found.has_errors() || contents.iter().any(|content| !content.tenants.is_empty());
        if let Some(first) = contents.first().filter(|_| !errors_or_tenants) {
            found.push(Diagnostic::new(Problem::NoTenants {}, first.source.place(0..0)));
        }
        let diagnostics = Diagnostics::new(found);
        if diagnostics.has_errors() {
            return Err(diagnostics);
        }
        let good = whole.into_good(contents, self.good.take());
        let config = good.config().clone();
        self.good = Some(good);
        self.warnings = diagnostics;
        Ok(config)
    }

    /// The files that the first one includes, sorted, and for each the place of a pattern that means it.
    fn included(&self, first: &FileContent, found: &mut Found) -> (Vec<PathBuf>, Vec<Place>) {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let mut paths: BTreeMap<PathBuf, Place> = BTreeMap::new();
        for (pattern, at) in &first.include {
            match include::files(folder, pattern) {
                Ok(files) => paths.extend(files.into_iter().map(|path| (path, at.clone()))),
                Err(problem) => found.push(Diagnostic::new(problem, at.clone())),
            }
        }
        paths.remove(&self.path);
        paths.into_iter().unzip()
    }

    /// What each file says, from the cache where it did not change. Files to be read are shared among the cores.
    fn fetch(&mut self, paths: &[PathBuf], included: bool) -> Vec<Result<Arc<FileContent>, io::Error>> {
        let is_known =
            |path: &PathBuf| self.files.get(path).is_some_and(|cached| cached.stamp.is_still_of(path));
        let stale: Vec<&PathBuf> = paths.iter().filter(|path| !is_known(path)).collect();
        let mut errors: HashMap<&PathBuf, io::Error> = HashMap::new();
        for (path, read) in stale.iter().zip(self.read_all(&stale, included)) {
            match read {
                Ok(cached) => drop(self.files.insert((*path).clone(), cached)),
                Err(error) => drop(errors.insert(path, error)),
            }
        }
        let content = |path: &PathBuf| match (errors.remove(path), self.files.get(path)) {
            (Some(error), _) => Err(error),
            (None, Some(cached)) => Ok(cached.content.clone()),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        };
        paths.iter().map(content).collect()
    }

    fn read_all(&self, paths: &[&PathBuf], included: bool) -> Vec<Result<Cached, io::Error>> {
        let read = |path: &&PathBuf| read_file(path, included, self.files.get(*path));
        let threads = thread::available_parallelism().map_or(1, usize::from).min(paths.len() / 4).max(1);
        if threads == 1 {
            return paths.iter().map(read).collect();
        }
        thread::scope(|scope| {
            let part = |part: &[&PathBuf]| part.iter().map(read).collect::<Vec<_>>();
            let parts = paths.chunks(paths.len().div_ceil(threads));
            let workers: Vec<_> = parts.map(|paths| scope.spawn(move || part(paths))).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Vec<_>>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().flat_map(join).collect()
        })
    }
}

/// Checks a configuration that is in one string; `name` is what its diagnostics call it. It includes nothing.
///
/// # Errors
/// Everything that is wrong, and all warnings.
pub fn load_str(name: &str, text: &str) -> Result<Arc<Config>, Diagnostics> {
    let mut loader = Loader::new(name);
    let first = Arc::new(check::file(Source::new(name, text), false, None));
    let nothing = |(pattern, at): &(Arc<str>, Place)| {
        Diagnostic::new(Problem::IncludeNothing { pattern: pattern.to_string() }, at.clone())
    };
    let found: Found = first.include.iter().map(nothing).collect();
    let complete = found.is_empty();
    loader.bring_together(&[first], found, complete)
}

/// What a file says, unless it is the one in the cache after all.
fn read_file(path: &Path, included: bool, cached: Option<&Cached>) -> Result<Cached, io::Error> {
    // Opening a pipe waits for a writer unless told not to.
    let mut file =
        fs::File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    // Taken before reading: a write in between shows in the stamp next time.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!("it is {}, and no regular file", kind(metadata.file_type()))));
    }
    let stamp = Stamp::of(&metadata);
    let too_large = || io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20));
    if stamp.len > LARGEST {
        return Err(too_large());
    }
    // One that grows meanwhile ends where it ended when it was opened: what is written behind that is half of something.
    let most = if stamp.len == 0 { LARGEST + 1 } else { stamp.len };
    let mut bytes = Vec::new();
    file.by_ref().take(most).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(too_large());
    }
    if let Some(cached) = cached.filter(|cached| cached.content.source.text().as_bytes() == bytes) {
        return Ok(Cached { stamp, content: cached.content.clone() });
    }
    let name = path.to_string_lossy();
    let content = match String::from_utf8(bytes) {
        Ok(text) => check::file(Source::new(&name, &text), included, cached.map(|cached| &*cached.content)),
        Err(error) => not_text(&name, &error),
    };
    Ok(Cached { stamp, content: Arc::new(content) })
}

fn kind(file: fs::FileType) -> &'static str {
    match file {
        file if file.is_dir() => "a folder",
        file if file.is_fifo() => "a pipe",
        file if file.is_socket() => "a socket",
        file if file.is_char_device() || file.is_block_device() => "a device",
        _ => "something else",
    }
}

fn not_text(name: &str, error: &std::string::FromUtf8Error) -> FileContent {
    let good = error.utf8_error().valid_up_to();
    let source = Source::new(name, &String::from_utf8_lossy(error.as_bytes()));
    // The replacement character stands where the first bad byte was, and is three bytes long.
    let at = source.place(good..good + char::REPLACEMENT_CHARACTER.len_utf8());
    FileContent::only(source, Diagnostic::new(Problem::NotText { path: name.to_owned() }, at))
}

/// The first file when it could not be read.
fn unreadable_first(path: &Path, error: &io::Error) -> FileContent {
    let path = path.to_string_lossy();
    let source = Source::new(&path, "");
    let at = source.place(0..0);
    FileContent::only(source, Diagnostic::new(unreadable(&path, error), at))
}

fn unreadable(path: &str, error: &io::Error) -> Problem {
    Problem::Unreadable { path: path.to_owned(), error: error.to_string() }
}

impl Stamp {
    #[allow(clippy::disallowed_methods, reason = "the clock says whether a file was written only just now")]
    fn of(metadata: &fs::Metadata) -> Self {
        let age = metadata.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: age.is_some_and(|age| age > STAMP_GRAIN),
        }
    }

    /// Whether the file at `path` is surely still the one that was read.
    fn is_still_of(&self, path: &Path) -> bool {
        self.settled && fs::metadata(path).is_ok_and(|metadata| Self::of(&metadata) == *self)
    }
}
