//! TCP clients.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{
    Party, Seen,
    server::{HASH_START, hash},
    token,
};

/// How long a bulk transfer may stand still.
const STALL_BOUND: Duration = Duration::from_secs(30);
/// How long it may take.
const BULK_BOUND: Duration = Duration::from_secs(120);

/// Opens a connection from inside the machine `from`. A given source port is free again at once afterwards: the
/// connection ends with a reset.
pub(crate) fn connect(
    from: &Party,
    source_port: Option<u16>,
    to: SocketAddr,
    bound: Duration,
) -> Result<(TcpStream, u16), (Seen, Option<u16>)> {
    let address = from.address;
    let opened = from.namespace.enter(|| {
        let unsent = |error: io::Error| (Seen::Failed(error.to_string()), None);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).map_err(unsent)?;
        if source_port.is_some() {
            socket.set_reuse_address(true).map_err(unsent)?;
            socket.set_linger(Some(Duration::ZERO)).map_err(unsent)?;
        }
        socket.bind(&SocketAddr::new(address, source_port.unwrap_or(0)).into()).map_err(unsent)?;
        let local = socket.local_addr().map_err(unsent)?;
        let port = local.as_socket().map(|local| local.port());
        match socket.connect_timeout(&to.into(), bound) {
            Ok(()) => Ok((TcpStream::from(socket), port.unwrap_or(0))),
            Err(error) => Err((Seen::from_error(&error), port)),
        }
    });
    opened.unwrap_or_else(|error| Err((Seen::Failed(error.to_string()), None)))
}

/// Has a token sent back over an open connection.
pub(crate) fn exchange(stream: &TcpStream, bound: Duration) -> Seen {
    let token = token();
    let began = Instant::now();
    match ask(stream, format!("echo {token}\n").as_bytes(), bound) {
        Ok(answer) => match answer.trim().split_once(' ') {
            Some((by, echoed)) if echoed == token => Seen::Answer { by: by.into(), after: began.elapsed() },
            _ => Seen::Failed(format!("an answer to something else: {}", answer.trim())),
        },
        Err(error) => Seen::from_error(&error),
    }
}

/// Sends `bytes` bytes and has the other side say what arrived.
pub(crate) fn bulk(mut stream: &TcpStream, bytes: u64) -> Seen {
    let began = Instant::now();
    let carried = (|| {
        stream.set_write_timeout(Some(STALL_BOUND))?;
        stream.write_all(format!("take {bytes}\n").as_bytes())?;
        let sent = pour(stream, bytes)?;
        Ok::<_, io::Error>((sent, ask(stream, b"", STALL_BOUND)?))
    })();
    match carried {
        Ok((sent, answer)) => match answer.trim().split_once(' ') {
            Some((by, arrived)) if arrived == format!("{sent:016x}") => {
                Seen::Answer { by: by.into(), after: began.elapsed() }
            }
            _ => Seen::Failed(format!("{sent:016x} was sent, and the answer is: {}", answer.trim())),
        },
        Err(error) => Seen::from_error(&error),
    }
}

/// Sends bytes that do not repeat within the transfer's windows, and gives their hash.
fn pour(mut stream: &TcpStream, bytes: u64) -> io::Result<u64> {
    let mut state = HASH_START;
    let mut left = bytes;
    let deadline = Instant::now() + BULK_BOUND;
    let mut counter = 0u64;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        for chunk in buffer.chunks_mut(8) {
            counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&counter.to_le_bytes());
        }
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get(..some).unwrap_or_default();
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "{left} of {bytes} bytes left after {} s",
                BULK_BOUND.as_secs()
            )));
        }
        stream.write_all(piece)?;
        state = hash(state, piece);
        left -= some as u64;
    }
    Ok(state)
}

fn ask(mut stream: &TcpStream, question: &[u8], bound: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(bound))?;
    stream.write_all(question)?;
    let mut answer = String::new();
    match BufReader::new(stream).read_line(&mut answer)? {
        0 => Err(io::ErrorKind::ConnectionReset.into()),
        _ => Ok(answer),
    }
}
