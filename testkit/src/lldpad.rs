//! Debian's `lldpad` as the station of a hypervisor: it tells the bridge which profile each machine has (VDP, IEEE 802.1Qbg).

use std::process::Command;

use eastgate_wire::MacAddr;

use crate::Netns;

/// How long `vdptool` may take, in seconds.
const ANSWER_S: &str = "20";

/// A machine's interface, and the profile that is asked for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vsi {
    /// The VSI manager's name
    pub manager: String,
    /// The number of its type
    pub kind: u32,
    /// And of that one's version
    pub version: u8,
    /// The VLAN of the machine's frames; 0 for those without a tag
    pub vlan: u16,
    /// The machine
    pub mac: MacAddr,
}

impl Vsi {
    /// Its words for `vdptool`, with what is to be done in `mode`: `assoc` or `deassoc`.
    fn words(&self, mode: &str) -> Vec<String> {
        let Self { manager, kind, version, vlan, mac } = self;
        let id = mac.0.map(|byte| format!("{byte:02x}")).concat();
        let said = [
            format!("mode={mode}"),
            format!("mgrid2={manager}"),
            format!("typeid={kind}"),
            format!("typeidver={version}"),
            format!("uuid=11111111-2222-3333-4444-{id}"),
            "hints=none".into(),
            format!("filter={vlan}-{mac}"),
        ];
        said.into_iter().flat_map(|word| ["-c".into(), word]).collect()
    }
}

/// An `lldpad` that speaks EVB and VDP as a station by `uplink`, and says again every second that a machine is there. It ends when the process does, and
/// answers for nothing but its own namespaces: it keeps files in `/dev/shm` and `/run` by which a second one on the machine would end.
#[must_use]
pub fn command(inside: &Netns, uplink: &str) -> Command {
    let configuration = format!(
        "nearest_customer_bridge :\n{{\n  {uplink} :\n  {{\n    adminStatus = 3;\n    tlvid0080c20d :\n    {{\n      enableTx = true;\n      \
         evbmode = \"station\";\n      evbrrreq = true;\n      vdprka = 17;\n    }};\n  }};\n}};\n"
    );
    let alone = "mount -t tmpfs none /dev/shm && mount -t tmpfs none /run && printf %s \"$0\" >/run/lldpad.conf && \
                 exec lldpad -p -f /run/lldpad.conf";
    let mut command = inside.command("unshare");
    command
        .args(["-m", "-i", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c", alone])
        .arg(configuration);
    command
}

/// What the bridge answers to a request, as `vdptool` prints it; nothing while the station does not speak VDP yet.
///
/// `mode` is `assoc` or `deassoc`; an answer that has the bridge's consent says `mode = ` and the same.
#[must_use]
pub fn ask(inside: &Netns, uplink: &str, mode: &str, vsi: &Vsi) -> Option<String> {
    let words = vsi.words(mode);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (done, text) = tool(inside, &[&["-i", uplink, "-T", "-W", "-V", mode], words.as_slice()].concat());
    done.then_some(text)
}

/// Which VSIs the station takes for associated, as `vdptool` prints them.
#[must_use]
pub fn associated(inside: &Netns, uplink: &str) -> String {
    tool(inside, &["-i", uplink, "-t", "-V", "assoc"]).1
}

/// Whether `vdptool` was content, and what it printed.
fn tool(inside: &Netns, words: &[&str]) -> (bool, String) {
    let mut command = inside.command("timeout");
    match command.args([ANSWER_S, "vdptool"]).args(words).output() {
        Ok(output) => (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => (false, String::new()),
    }
}
