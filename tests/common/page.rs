//! A daemon that serves its page: what it is given for that.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use serde_json::Value;

use super::{World, eastgate};

/// Where the page is, inside the daemon's namespace
pub const ORIGIN: &str = "https://127.0.0.1:8443";

/// Options of `eastgate run`, with a certificate of the loopback that nobody has to trust, and a token that is made with `role`.
pub fn options(world: &World, role: &[&str]) -> (Vec<String>, String) {
    let [certificate, key] = certificate(world);
    let made = eastgate([&["token", "new", "page", "-o", "json"], role].concat());
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let tokens = world.write("tokens.toml", made["table"].as_str().unwrap());
    fs::set_permissions(&tokens, Permissions::from_mode(0o600)).unwrap();
    let options = [
        "--api",
        ORIGIN.strip_prefix("https://").unwrap(),
        "--api-certificate",
        &certificate,
        "--api-key",
        &key,
        "--api-tokens",
        tokens.to_str().unwrap(),
    ];
    (options.map(str::to_owned).to_vec(), made["token"].as_str().unwrap().to_owned())
}

/// The files of it and its key
fn certificate(world: &World) -> [String; 2] {
    let [certificate, key] = ["api.pem", "api.key"].map(|name| world.path(name).to_str().unwrap().to_owned());
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=beta",
    ]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &certificate]);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    [certificate, key]
}
