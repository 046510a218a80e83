//! The story itself, top to bottom: what the lab is, what passes, what does not and why, what a change of policy
//! does to connections that live, and that nothing is left.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eastgate_testkit::{Netns, netns};
use serde_json::Value;

use super::teller::Teller;

/// Who connects to whom, in the words of the lab's configuration.
const CLIENT: &str = "acme/web1";
const SERVER: &str = "acme/db1";
const ALLOWED_PORT: u16 = 5432;
const DENIED_PORT: u16 = 22;
/// Where the new rule is written, and the rule.
const GROUP: &str = "[tenant.acme.group.db]";
const NEW_RULE: &str =
    r#"{ description = "added by the demo", proto = "tcp", ports = 22, from = "group:web" }"#;

/// Longer than anything in a lab takes, shorter than a reader's patience.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
const TRACE_DROPPED: i32 = 5;

/// Tells the story of `lab` with the program `eastgate`.
pub(super) fn tell(eastgate: &Path, lab: &str) -> Result<()> {
    let mut teller = Teller::new(eastgate);
    let devices = names("/sys/class/net")?;
    introduce(&mut teller, lab)?;
    let running = Running::start(&mut teller, eastgate, lab)?;
    let live = allowed(&mut teller, &running)?;
    denied(&mut teller, &running)?;
    change(&mut teller, &running, live)?;
    prove(&mut teller, &running)?;
    end(&mut teller, running, &devices)
}

fn introduce(teller: &mut Teller, lab: &str) -> Result<()> {
    teller.chapter("What stands where");
    teller.say(
        "Two hypervisors, joined by an IP network. Tenants' machines on them believe that they share an Ethernet \
         switch; eastgate carries their frames between the hosts in VXLAN, and every frame from one machine to \
         another, on the same host too, must pass the tenant's policy. Here each of them is a network namespace:",
    );
    teller.show(&["lab", "graph", lab], 0).map(drop)
}

/// Opens a connection the policy allows, and keeps it for later.
fn allowed(teller: &mut Teller, running: &Running) -> Result<Conversation> {
    teller.chapter("An allowed connection, and what eastgate remembers of it");
    teller.say(&format!(
        "{CLIENT} connects to {SERVER}, port {ALLOWED_PORT}. The first packet is held against the rules; from then \
         on the connection is in the flow table, with the rules that let it in, and its packets cost one look-up:"
    ));
    let live = running.connect(ALLOWED_PORT)?.context("the allowed connection was not answered")?;
    let vni = running.vni.to_string();
    let port = ALLOWED_PORT.to_string();
    teller.show(&["show", "flows", "--vni", &vni, "--port", &port, "--socket", &running.client.socket], 0)?;
    Ok(live)
}

fn denied(teller: &mut Teller, running: &Running) -> Result<()> {
    teller.chapter("A connection nobody allowed, and why it failed");
    teller.say(&format!(
        "Now {CLIENT} tries port {DENIED_PORT} of the same machine, where somebody listens. No rule says it may, so \
         it hears nothing:"
    ));
    ensure!(running.connect(DENIED_PORT)?.is_none(), "port {DENIED_PORT} answers, and no rule allows that");
    teller.quote(&format!("connecting to {} ... no answer, as it should be", running.server(DENIED_PORT)));
    teller.say(
        "Every dropped frame counts under one reason, with the rule, or the groups that have none for it:",
    );
    let vni = running.vni.to_string();
    teller.show(&["show", "drops", "--vni", &vni, "--socket", &running.server.socket], 0)?;
    teller.say("The same question without sending anything, answered step by step:");
    running.trace(teller, TRACE_DROPPED)
}

/// Allows what was denied, under a connection that lives.
fn change(teller: &mut Teller, running: &Running, live: Conversation) -> Result<()> {
    teller.chapter("A change of policy, with connections open");
    let config = running.config(teller)?;
    teller.say(&format!("One rule is added to {} (the lab's own copy):", config.display()));
    teller.quote(&format!("  {GROUP}\n  ingress = [\n+   {NEW_RULE},\n    ..."));
    let text = std::fs::read_to_string(&config)?;
    let changed =
        with_rule(&text).with_context(|| format!("{} has no ingress under {GROUP}", config.display()))?;
    std::fs::write(&config, changed)?;
    teller.say(
        "A configuration is put in force whole or, where anything is wrong with it, not at all. Each host compiles \
         it beside the old one and swaps:",
    );
    for socket in &running.sockets {
        teller.show(&["reload", "--socket", socket], 0)?;
    }
    running.trace(teller, 0)?;
    let now = running.connect(DENIED_PORT)?;
    ensure!(now.is_some(), "port {DENIED_PORT} does not answer, and the new rule allows it");
    live.exchange().context("the connection from before the change is broken")?;
    teller.say(&format!(
        "Port {DENIED_PORT} answers now, and the connection to port {ALLOWED_PORT} that was open all the time still \
         carries data: it was decided again under the new rules, without a gap."
    ));
    Ok(())
}

fn prove(teller: &mut Teller, running: &Running) -> Result<()> {
    teller.chapter("Does it do all that it says?");
    teller.say(
        "The lab comes with expectations: who reaches whom, who must not and under which reason the drop is counted, \
         who answers ARP, what happens to stolen addresses, to open connections when the policy closes, to everybody \
         when a daemon is killed. The check puts the lab's own policy back in force, sends that traffic and compares:",
    );
    let report = teller.show_only_command(&["lab", "check", &running.lab.id])?;
    let rows = report["rows"].as_array().context("a check without rows")?;
    // The command prints a line for each pair of machines and family; here, one for each sentence of the story.
    let mut step = &Value::Null;
    for same in rows.chunk_by(|one, next| one["story"] == next["story"]) {
        let (good, all) = (same.iter().filter(|row| row["ok"] == true).count(), same.len());
        let [story, expected] = ["story", "expected"].map(|key| same[0][key].as_str().unwrap_or_default());
        if same[0]["step"] != *step {
            step = &same[0]["step"];
            println!("  -- then {}", step.as_str().unwrap_or_default());
        }
        println!("  {} {good}/{all}  {story:<48}  {expected}", if good == all { "ok  " } else { "FAIL" });
    }
    let failed = rows.iter().filter(|row| row["ok"] != true).count();
    println!("  {} checked, {failed} failed", rows.len());
    ensure!(failed == 0 && !rows.is_empty(), "the lab does not do what it says: {report:#}");
    Ok(())
}

fn end(teller: &mut Teller, running: Running, devices: &BTreeSet<String>) -> Result<()> {
    teller.chapter("Nothing stays");
    let id = running.lab.id.clone();
    running.stop(teller)?;
    let left = left_of(&id)?;
    ensure!(left.is_empty(), "the lab left something behind: {left:?}");
    ensure!(
        *devices == names("/sys/class/net")?,
        "the network devices of this machine are not those of before"
    );
    teller.say(
        "No namespace, process or file of the lab is left, and this machine's network devices are those of before.",
    );
    Ok(())
}

/// A lab that is up; dropping it takes it down.
struct Lab {
    eastgate: PathBuf,
    id: String,
    up: bool,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.up {
            return;
        }
        if let Err(error) = crate::run::output(Command::new(&self.eastgate).args(["lab", "down", &self.id])) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The lab, and what the story needs to know of it.
struct Running {
    lab: Lab,
    /// Control sockets, one a host.
    sockets: Vec<String>,
    vni: u64,
    client: Place,
    server: Place,
}

/// A tenant's machine.
struct Place {
    namespace: Netns,
    address: IpAddr,
    socket: String,
}

impl Running {
    fn start(teller: &mut Teller, eastgate: &Path, lab: &str) -> Result<Self> {
        teller.chapter("Up it comes");
        teller.say("Namespaces, cables, one eastgate daemon a host. `lab up` says where to look afterwards:");
        let said = teller.show(&["lab", "up", lab], 0)?;
        let id = said.strip_prefix("lab ").and_then(|rest| rest.split(' ').next());
        let id = id.with_context(|| format!("`lab up` does not say which lab it made: {said}"))?.to_owned();
        // From here on whatever fails takes it down again.
        let lab = Lab { eastgate: eastgate.to_owned(), id, up: true };
        let labs = teller.ask(&["lab", "list"])?;
        let record = labs.as_array().and_then(|all| all.iter().find(|record| record["id"] == lab.id));
        Self::know(teller, lab, record.context("the lab is not listed")?)
    }

    fn know(teller: &Teller, lab: Lab, record: &Value) -> Result<Self> {
        let nodes = record["nodes"].as_array().context("a lab without nodes")?;
        let hosts =
            nodes.iter().filter(|node| node["kind"] == "host").filter_map(|node| node["name"].as_str());
        let sockets: Vec<String> =
            hosts.map(|host| format!("/run/eastgate/labs/{}/{host}.sock", lab.id)).collect();
        let mut places = Vec::new();
        let mut vni = None;
        for name in [CLIENT, SERVER] {
            let node =
                nodes.iter().find(|node| node["name"] == name).with_context(|| format!("no node {name}"))?;
            let namespace = Netns::named(node["namespace"].as_str().context("a node without namespace")?);
            for socket in &sockets {
                let rows = teller.ask(&["show", "endpoints", "--socket", socket])?;
                let here = |row: &&Value| row["endpoint"] == name && !row["port"].is_null();
                let Some(row) = rows["endpoints"].as_array().and_then(|rows| rows.iter().find(here)) else {
                    continue;
                };
                let address = row["addresses"][0].as_str().and_then(|text| text.parse().ok());
                let address = address.with_context(|| format!("{name} has no address: {row}"))?;
                vni = row["vni"].as_u64();
                places.push(Place { namespace: namespace.clone(), address, socket: socket.clone() });
            }
        }
        let Ok([client, server]) = <[Place; 2]>::try_from(places) else {
            bail!("{CLIENT} and {SERVER} must each be on one host");
        };
        Ok(Self { lab, sockets, vni: vni.context("endpoints without VNI")?, client, server })
    }

    fn server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.server.address, port)
    }

    /// The file the daemons read.
    fn config(&self, teller: &Teller) -> Result<PathBuf> {
        let status = teller.ask(&["status", "--socket", &self.client.socket])?;
        Ok(status["config"].as_str().context("a status without config")?.into())
    }

    fn trace(&self, teller: &Teller, expected: i32) -> Result<()> {
        let (from, to) =
            (SocketAddr::new(self.client.address, 40_000).to_string(), self.server(DENIED_PORT).to_string());
        let vni = self.vni.to_string();
        teller
            .show(&["trace", "--vni", &vni, "tcp", &from, &to, "--socket", &self.client.socket], expected)
            .map(drop)
    }

    /// A connection from client to server and back over it one exchange; `None` when nobody answers.
    fn connect(&self, port: u16) -> Result<Option<Conversation>> {
        let at = self.server(port);
        let listener = self.server.namespace.enter(|| TcpListener::bind(at))??;
        let near = self.client.namespace.enter(|| TcpStream::connect_timeout(&at, ANSWER_WITHIN))?;
        let near = match near {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("connecting to {at}")),
        };
        let (far, _) = listener.accept()?;
        let conversation = Conversation { near, far };
        conversation.exchange()?;
        Ok(Some(conversation))
    }

    fn stop(mut self, teller: &Teller) -> Result<()> {
        teller.show(&["lab", "down", &self.lab.id], 0)?;
        self.lab.up = false;
        Ok(())
    }
}

/// Both ends of a TCP connection.
struct Conversation {
    near: TcpStream,
    far: TcpStream,
}

impl Conversation {
    /// A few bytes there and back.
    fn exchange(&self) -> Result<()> {
        for (mut from, mut to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            to.set_read_timeout(Some(ANSWER_WITHIN))?;
            from.write_all(b"hello")?;
            to.read_exact(&mut [0; 5])?;
        }
        Ok(())
    }
}

fn names(folder: &str) -> Result<BTreeSet<String>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| folder.to_owned()),
    }
}

/// What there is of the lab `id`: namespaces, files, and processes that were given any of those.
fn left_of(id: &str) -> Result<Vec<String>> {
    let (namespace, files) = (format!("eg-{id}-"), format!("/run/eastgate/labs/{id}"));
    let mut left =
        names(netns::FOLDER)?.into_iter().filter(|name| name.starts_with(&namespace)).collect::<Vec<_>>();
    let own = |name: &String| name.starts_with(id);
    left.extend(names("/run/eastgate/labs")?.into_iter().filter(own));
    for process in names("/proc")? {
        // Processes come and go while this looks at them.
        let words =
            std::fs::read_to_string(Path::new("/proc").join(&process).join("cmdline")).unwrap_or_default();
        if words.contains(&files) || words.contains(&namespace) {
            left.push(format!("process {process}: {}", words.replace('\0', " ")));
        }
    }
    Ok(left)
}

/// The configuration with the new rule first in its group.
fn with_rule(text: &str) -> Option<String> {
    const OPENING: &str = "ingress = [";
    let group = text.find(GROUP)? + GROUP.len();
    let inside = text.get(group..)?;
    // Not beyond the group's own table.
    let table = inside.find("\n[").and_then(|end| inside.get(..end)).unwrap_or(inside);
    let at = group + table.find(OPENING)? + OPENING.len();
    Some(format!("{}\n  {NEW_RULE},{}", text.get(..at)?, text.get(at..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_goes_into_its_group_only() {
        let text =
            format!("[tenant.acme.group.web]\ningress = [1]\n{GROUP}\negress = []\ningress = [2]\n[x]\n");
        let changed = with_rule(&text).unwrap();
        assert!(changed.contains(&format!("egress = []\ningress = [\n  {NEW_RULE},2]\n[x]")), "{changed}");
        assert_eq!(with_rule(&format!("{GROUP}\negress = []\n[other]\ningress = [2]\n")), None);
        assert_eq!(with_rule("ingress = [2]"), None);
    }
}
