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

const fn asset(path: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    Asset { path, content_type, bytes }
}

const fn script(path: &'static str, bytes: &'static [u8]) -> Asset {
    asset(path, "text/javascript; charset=utf-8", bytes)
}

const ASSETS: &[Asset] = &[
    asset("/", "text/html; charset=utf-8", include_bytes!("page/index.html")),
    asset("/style.css", "text/css; charset=utf-8", include_bytes!("page/style.css")),
    asset("/icon.svg", "image/svg+xml", include_bytes!("page/icon.svg")),
    script("/api.js", include_bytes!("page/api.js")),
    script("/app.js", include_bytes!("page/app.js")),
    script("/canvas.js", include_bytes!("page/canvas.js")),
    script("/detail.js", include_bytes!("page/detail.js")),
    script("/dom.js", include_bytes!("page/dom.js")),
    script("/layout.js", include_bytes!("page/layout.js")),
    script("/role.js", include_bytes!("page/role.js")),
    script("/store.js", include_bytes!("page/store.js")),
    script("/table.js", include_bytes!("page/table.js")),
    script("/view_drops.js", include_bytes!("page/view_drops.js")),
    script("/view_flows.js", include_bytes!("page/view_flows.js")),
    script("/view_host.js", include_bytes!("page/view_host.js")),
    script("/view_map.js", include_bytes!("page/view_map.js")),
    script("/view_policy.js", include_bytes!("page/view_policy.js")),
    script("/view_trace.js", include_bytes!("page/view_trace.js")),
];

/// The file of a path.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// What is in the folder is served, and what is named in it is there.
    #[test]
    fn every_file_is_served_and_names_only_others() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page");
        let names =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> =
            names.map(|name| if name == "index.html" { "/".into() } else { format!("/{name}") }).collect();
        let served: BTreeSet<String> = ASSETS.iter().map(|asset| asset.path.to_owned()).collect();
        assert_eq!(there, served);
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            for named in
                ["href=\"", "src=\"", "from \"."].iter().flat_map(|before| text.split(before).skip(1))
            {
                let named = named.split('"').next().unwrap();
                assert!(named.starts_with('#') || find(named).is_some(), "{}: {named}", asset.path);
            }
            // Not even for what is drawn: addresses of namespaces are no addresses to go to.
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{}", asset.path);
            assert!(!text.contains("innerHTML") && !text.contains("insertAdjacentHTML"), "{}", asset.path);
        }
    }
}
