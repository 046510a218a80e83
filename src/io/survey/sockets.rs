//! Who listens on a UDP port, and whether a route leads to an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::{Look, process, read};

/// A UDP socket on a port.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Listener {
    /// Its address; the unspecified one hears all
    pub address: IpAddr,
    /// The kernel's number of the socket
    pub inode: u64,
    /// Who has it, as number and name; nothing where no process does (a device of the kernel's has one), or none may be seen
    pub process: Option<(u32, String)>,
}

/// The UDP sockets on this port in this network namespace.
///
/// # Errors
/// When procfs does not tell.
pub fn on_port(port: u16) -> Look<Vec<Listener>> {
    let mut found = Vec::new();
    for table in ["udp", "udp6"] {
        let text = read(&format!("/proc/net/{table}"))?.unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(listener).filter(|(at, _)| at.port() == port));
    }
    let owners = if found.is_empty() { Vec::new() } else { owners() };
    let mut listeners: Vec<Listener> = found
        .into_iter()
        .map(|(at, inode)| Listener {
            address: at.ip(),
            inode,
            process: owners.iter().find(|(socket, _)| *socket == inode).map(|(_, process)| process.clone()),
        })
        .collect();
    listeners.sort_by_key(|listener| (listener.address, listener.inode));
    Ok(listeners)
}

/// A line of procfs: local address and the socket's number.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of the address as the machine has them in memory.
    let words: Option<Vec<u8>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let bytes = words?;
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some((SocketAddr::new(ip, port), fields.get(9)?.parse().ok()?))
}

/// The sockets of all processes that may be seen.
fn owners() -> Vec<(u64, (u32, String))> {
    let Ok(folders) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = folders.flatten().filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    pids.flat_map(|pid| {
        let owner = (pid, process::program(pid).unwrap_or_default());
        process::sockets(pid).unwrap_or_default().into_iter().map(move |socket| (socket, owner.clone()))
    })
    .collect()
}

/// Why no route leads from here to there; nothing is sent to find that out.
#[must_use]
pub fn no_route(from: IpAddr, to: IpAddr) -> Option<String> {
    const DISCARD: u16 = 9;
    let socket = match UdpSocket::bind((from, 0)) {
        Ok(socket) => socket,
        // An address that is not there is told by itself.
        Err(_) => return None,
    };
    socket.connect((to, DISCARD)).err().map(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use eastgate_testkit::wait::wait_for;

    use super::*;

    /// A process that a test beside this one is starting has a copy of every socket until it has become another program.
    #[test]
    fn a_socket_is_found_with_its_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(address) else { continue };
            let at = socket.local_addr().unwrap();
            let listeners = || on_port(at.port()).unwrap().into_iter().filter(|it| it.address == at.ip());
            let mut ours = None;
            wait_for("its process is found", || {
                let process = |it: &Listener| it.process.as_ref().map(|(pid, _)| *pid);
                ours = listeners().find(|it| process(it) == Some(std::process::id()));
                ours.is_some()
            });
            drop(socket);
            let inode = ours.unwrap().inode;
            wait_for("it is gone", || listeners().all(|it| it.inode != inode));
        }
    }

    #[test]
    fn lines_of_procfs_are_read() {
        let line = "  77: 0100007F:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0 0";
        assert_eq!(listener(line), Some(("127.0.0.1:4789".parse().unwrap(), 4242)));
        assert_eq!(listener("sl local_address"), None);
    }

    #[test]
    fn a_route_leads_to_this_machine() {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(no_route(local, local), None);
    }
}
