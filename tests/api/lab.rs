//! A daemon whose API is served over the network, for two tenants, and curl to ask it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::common::{Daemon, EASTGATE, Space, site::*};

/// Where the API is served, in alpha's namespace.
pub(crate) const PORT: u16 = 8443;
/// What its certificate is for.
pub(crate) const NAME: &str = "alpha.example";

/// Another tenant, with two machines on alpha.
const INITECH: &str = r#"
[tenant.initech.network.lab]
vni = 6001
subnets = ["10.1.0.0/24"]

[tenant.initech.group.everybody]
egress = [{ to = "any" }]
ingress = [{ proto = "icmp", from = "any" }, { proto = "udp", ports = [7000], from = "any" }]

[tenant.initech.endpoint.secret1]
network = "lab"
host = "alpha"
port = "veth-sec1"
mac = "02:00:00:00:00:13"
addresses = ["10.1.0.13"]
groups = ["everybody"]

[tenant.initech.endpoint.secret2]
network = "lab"
host = "alpha"
port = "veth-sec2"
mac = "02:00:00:00:00:14"
addresses = ["10.1.0.14"]
groups = ["everybody"]
"#;

/// The lab.
pub(crate) struct Lab {
    pub(crate) alpha: Daemon,
    _beta: Daemon,
    pub(crate) site: Site,
    /// The machines of the other tenant
    pub(crate) secret: [Space; 2],
    /// Tokens by name
    tokens: Vec<(String, String)>,
}

/// An answer as curl got it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Lines of the head, in small letters
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What a failure is, for a program.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Lab {
    /// With these tokens: name, role, and the tenant that it is confined to.
    pub(crate) fn start(tokens: &[(&str, &str, Option<&str>)]) -> Option<Self> {
        let mut site = Site::new(HOSTS_V4)?;
        site.rewrite(|text| text + INITECH);
        let secret = [site.world.space("sec1"), site.world.space("sec2")];
        site.plug(&site.alpha, "veth-sec1", &secret[0], 0x13);
        site.plug(&site.alpha, "veth-sec2", &secret[1], 0x14);
        let (mut file, mut made) = (String::new(), Vec::new());
        for (name, role, tenant) in tokens {
            let (token, table) = new_token(name, role, *tenant);
            file += &table;
            made.push(((*name).to_owned(), token));
        }
        private(&site.world.path("tokens.toml"), &file);
        certificate(&site, "first");
        for (from, to) in [("first.pem", "api.pem"), ("first.key", "api.key")] {
            replace(&site.world.path(from), &site.world.path(to));
        }
        let path = |name: &str| site.world.path(name).to_str().unwrap().to_owned();
        let options = [
            "--dataplane".to_owned(),
            "userspace".to_owned(),
            "--metrics".to_owned(),
            "127.0.0.1:9473".to_owned(),
            "--api".to_owned(),
            format!("0.0.0.0:{PORT}"),
            "--api-certificate".to_owned(),
            path("api.pem"),
            "--api-key".to_owned(),
            path("api.key"),
            "--api-tokens".to_owned(),
            path("tokens.toml"),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let alpha = site.run_more("alpha", &options);
        let beta = site.run("beta");
        Some(Self { alpha, _beta: beta, site, secret, tokens: made })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.site.world.path(name)
    }

    pub(crate) fn token(&self, name: &str) -> &str {
        &self.tokens.iter().find(|(it, _)| it == name).unwrap().1
    }

    /// What is answered over TLS to whoever shows this token, and says this besides.
    pub(crate) fn ask(&self, token: &str, method: &str, target: &str, more: &[&str]) -> Answer {
        let token = if token.is_empty() { String::new() } else { self.token(token).to_owned() };
        self.show(&token, method, target, more)
    }

    /// The same with the token itself.
    pub(crate) fn show(&self, token: &str, method: &str, target: &str, more: &[&str]) -> Answer {
        let (command, url) = self.over_tls(token, target);
        curl(command, method, &url, more)
    }

    fn over_tls(&self, token: &str, target: &str) -> (Command, String) {
        let mut command = self.site.alpha.command("curl");
        // No file of whoever runs this counts.
        command.args(["-q", "--cacert", self.path("api.pem").to_str().unwrap()]);
        command.args(["--resolve", &format!("{NAME}:{PORT}:127.0.0.1")]);
        if !token.is_empty() {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        (command, format!("https://{NAME}:{PORT}{target}"))
    }

    /// The same, as far as there is an answer.
    pub(crate) fn try_ask(&self, token: &str, method: &str, target: &str, more: &[&str]) -> Option<Answer> {
        let (command, url) = self.over_tls(self.token(token), target);
        try_curl(command, method, &url, more)
    }

    /// What is answered at the control socket.
    pub(crate) fn ask_socket(&self, method: &str, target: &str, more: &[&str]) -> Answer {
        let mut command = Command::new("curl");
        command.args(["-q", "--unix-socket"]).arg(self.alpha.socket());
        curl(command, method, &format!("http://localhost{target}"), more)
    }

    /// Something happens in both networks: flows that begin, and packets that are refused.
    pub(crate) fn make_something_happen(&self) {
        let flows = Flows::start(&self.site);
        flows.allowed_arrive("of acme");
        flows.denied_never_arrived();
        assert!(self.secret[0].ping("10.1.0.14"), "initech's machines reach each other");
        self.secret[0].enter(|| {
            let socket = crate::common::bind_udp(udp(13, 4001));
            let _ = socket.send_to(b"x", udp(14, DENIED));
        });
        let seen = |vni: u64| {
            let drops = self.alpha.ask(&["show", "drops"]);
            drops["drops"]
                .as_array()
                .unwrap()
                .iter()
                .any(|row| row["vni"] == vni && row["class"] == "refusal")
        };
        crate::common::wait_for("both were refused something", || seen(5001) && seen(6001));
    }
}

fn curl(command: Command, method: &str, url: &str, more: &[&str]) -> Answer {
    try_curl(command, method, url, more).unwrap_or_else(|| panic!("no answer to {method} {url} {more:?}"))
}

fn try_curl(mut command: Command, method: &str, url: &str, more: &[&str]) -> Option<Answer> {
    command.args(["-sS", "-i", "--max-time", "60", "-X", method]);
    if !more.iter().any(|it| it.starts_with("Expect:")) {
        // A body is not announced first.
        command.args(["-H", "Expect:"]);
    }
    command.args(more).arg(url);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    if status.is_none() {
        eprintln!("{command:?}: {output:?}");
    }
    Some(Answer { status: status?, head: head.to_lowercase(), body: body.to_owned() })
}

/// A body of JSON, for curl.
pub(crate) fn body(json: &str) -> [String; 4] {
    ["-H".into(), "Content-Type: application/json".into(), "--data-binary".into(), json.into()]
}

/// A token, and its table.
pub(crate) fn new_token(name: &str, role: &str, tenant: Option<&str>) -> (String, String) {
    let mut command = Command::new(EASTGATE);
    command.args(["token", "new", name, "--role", role, "-o", "json"]);
    if let Some(tenant) = tenant {
        command.args(["--tenant", tenant]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    (answer["token"].as_str().unwrap().to_owned(), answer["table"].as_str().unwrap().to_owned() + "\n")
}

/// Writes a file that its owner alone may read, in place of the one before.
pub(crate) fn private(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Puts a copy of one file in place of another.
pub(crate) fn replace(from: &Path, to: &Path) {
    private(to, &fs::read_to_string(from).unwrap());
}

/// A certificate that is its own authority, with its key.
pub(crate) fn certificate(site: &Site, name: &str) {
    let path = |end: &str| site.world.path(&format!("{name}.{end}"));
    let settings = format!(
        "[req]\ndistinguished_name = name\nprompt = no\nx509_extensions = more\n[name]\nCN = {name}\n\
         [more]\nsubjectAltName = DNS:{NAME}\nbasicConstraints = critical,CA:FALSE\n"
    );
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .arg("-config")
        .arg(site.world.write("openssl.cnf", &settings))
        .arg("-keyout")
        .arg(path("key"))
        .arg("-out")
        .arg(path("pem"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
