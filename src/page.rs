//! The files of the page that a browser shows, as they are in `src/page/`.

/// What a browser may do on these pages: use what comes from here, and nothing else. They have no styles or scripts within them.
pub(crate) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// A file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    /// The path that it is asked for by
    path: &'static str,
    /// What it is (RFC 9110 section 8.3)
    pub(crate) content_type: &'static str,
    /// What is in it
    pub(crate) bytes: &'static [u8],
}

const ASSETS: &[Asset] = &[Asset {
    path: "/",
    content_type: "text/html; charset=utf-8",
    bytes: include_bytes!("page/index.html"),
}];

/// The file of a path.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}
