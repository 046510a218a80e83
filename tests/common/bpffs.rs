//! Somewhere to pin.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

/// A bpffs in a folder of the test's own, gone when it is dropped.
pub struct BpfFs(pub PathBuf);

impl BpfFs {
    pub fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let nothing: Option<&str> = None;
        nix::mount::mount(Some("bpf"), &folder, Some("bpf"), nix::mount::MsFlags::empty(), nothing).unwrap();
        Self(folder)
    }

    /// What is pinned: folders, and files in them.
    pub fn entries(&self) -> (usize, usize) {
        let all = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        // The kernel has files of its own there.
        let folders: Vec<_> = all.filter(|path| path.is_dir()).collect();
        let files = folders.iter().map(|folder| {
            let mode = std::fs::metadata(folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{folder:?}");
            std::fs::read_dir(folder).unwrap().count()
        });
        (folders.len(), files.sum())
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
