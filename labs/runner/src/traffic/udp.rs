//! UDP clients.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{Party, Seen, token};

/// How long an answer may take before the question is repeated.
const REPEAT: Duration = Duration::from_millis(500);

/// Asks the server at `to` from inside the machine `from`; the question is repeated within `bound`. Gives the
/// source port too.
pub(crate) fn ask(
    from: &Party,
    source_port: Option<u16>,
    to: SocketAddr,
    bound: Duration,
) -> (Seen, Option<u16>) {
    let local = SocketAddr::new(from.address, source_port.unwrap_or(0));
    let asked = from.namespace.enter(|| {
        let open = || {
            let socket = UdpSocket::bind(local)?;
            socket.connect(to)?;
            Ok::<_, io::Error>((socket.local_addr()?.port(), socket))
        };
        match open() {
            Ok((port, socket)) => (converse(&socket, bound), Some(port)),
            Err(error) => (Seen::Failed(error.to_string()), None),
        }
    });
    asked.unwrap_or_else(|error| (Seen::Failed(error.to_string()), None))
}

fn converse(socket: &UdpSocket, bound: Duration) -> Seen {
    let token = token();
    let began = Instant::now();
    let mut buffer = [0; 256];
    while let Some(left) = bound.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        let asked = socket
            .set_read_timeout(Some(left.min(REPEAT)))
            .and_then(|()| socket.send(token.as_bytes()))
            .and_then(|_| socket.recv(&mut buffer));
        match asked {
            Ok(len) => match answer(buffer.get(..len).unwrap_or_default(), &token) {
                Some(by) => return Seen::Answer { by, after: began.elapsed() },
                None => return Seen::Failed("an answer to something else".into()),
            },
            Err(error) => match Seen::from_error(&error) {
                Seen::Silence => {}
                other => return other,
            },
        }
    }
    Seen::Silence
}

/// Who answered, if it is an answer to `token`.
fn answer(datagram: &[u8], token: &str) -> Option<String> {
    let (by, echoed) = std::str::from_utf8(datagram).ok()?.split_once(' ')?;
    (echoed == token).then(|| by.to_owned())
}
