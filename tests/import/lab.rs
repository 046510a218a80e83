//! The lab with both a Neutron project and libvirt domains.

use std::{fs, path::Path};

use eastgate::import::Map;

use super::{imported, imported_by};

const LAB_HOSTS: &str = r#"# A Neutron project and two libvirt domains, as `eastgate import` writes them; the hosts are added.

[host.alpha]
vtep = "192.0.2.1"
device = "underlay0"

[host.beta]
vtep = "192.0.2.2"
device = "underlay0"
"#;

/// The lab with both is what the import writes, and hosts.
#[test]
fn the_lab_is_as_imported() {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/05-migrated");
    let both =
        [imported("neutron"), imported_by("libvirt", &Map::read(&lab.join("libvirt-map.toml")).unwrap())];
    let text = format!("{LAB_HOSTS}\n{}", both.join("\n"));
    let written = lab.join("eastgate.toml");
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        fs::write(&written, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&written).unwrap(), "EASTGATE_BLESS=1 writes it anew");
}
