//! Packets of SCTP (RFC 9260), written without any of eastgate's own reading or writing.

use etherparse::PacketBuilder;

/// A chunk: type, flags and what is in it.
#[must_use]
pub fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut chunk = vec![kind, flags];
    chunk.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    chunk.extend_from_slice(body);
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// An INIT, or an INIT ACK with a cookie, that asks for packets with this tag.
#[must_use]
pub fn init(acknowledges: bool, tag: u32) -> Vec<u8> {
    let mut body = tag.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    if acknowledges {
        body.extend_from_slice(&[0, 7, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    chunk(1 + u8::from(acknowledges), 0, &body)
}

/// What is behind the IP header: ports, tag, the checksum, and chunks.
#[must_use]
pub fn packet((sport, dport): (u16, u16), tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &tag.to_be_bytes(), &[0; 4]].concat();
    packet.extend(chunks.iter().flatten());
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// The frame of such a packet, by the MACs and addresses of its sender and receiver.
///
/// # Panics
/// When it is too large.
#[must_use]
#[allow(clippy::unwrap_used, reason = "tests make no frames of 64 KiB")]
pub fn frame(macs: [[u8; 6]; 2], addresses: [[u8; 4]; 2], packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2(macs[0], macs[1]).ipv4(addresses[0], addresses[1], 64);
    ip.write(&mut frame, 132.into(), packet).unwrap();
    frame
}

/// Bit by bit (RFC 9260 appendix A)
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}
