//! A packet out of a capture file: pcap or pcapng, as tcpdump and Wireshark write them.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use eastgate_wire::names;
use pcap_parser::{
    Block, Linktype, PcapBlockOwned, PcapError, create_reader,
    traits::{PcapNGPacketBlock as _, PcapReaderIterator},
};

/// Bytes of the largest frame there is: a packet that the sender's device would cut, with what stands before it
pub(super) const LARGEST: usize = 65_535 + 128;

/// What one block of a capture takes at most
const BUFFER: usize = 1 << 20;

/// A packet as it was captured.
struct Captured {
    bytes: Vec<u8>,
    /// How long it was
    length: usize,
    link: Option<Linktype>,
}

/// The frame of a number, counted from 1.
pub(super) fn packet(path: &Path, number: u64) -> Result<Vec<u8>> {
    let name = path.display();
    let file = Whole(File::open(path).with_context(|| name.to_string())?);
    let mut reader =
        create_reader(BUFFER, file).map_err(|error| unreadable(&error)).with_context(|| name.to_string())?;
    let mut interfaces: Vec<Linktype> = Vec::new();
    let mut seen = 0;
    loop {
        let captured =
            next(&mut *reader, &mut interfaces).with_context(|| format!("{name}, behind packet {seen}"))?;
        let Some(captured) = captured else {
            bail!("{name} has {}: there is no packet {number}", names::count(seen, "packet"));
        };
        seen += 1;
        if seen == number {
            return captured.frame().with_context(|| format!("{name}, packet {number}"));
        }
    }
}

/// Reads as much as is asked for, of what comes in pieces as well: a pipe gives no more at a time than was written to it.
struct Whole<R>(R);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.0.read(rest) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before it counts.
                Err(error) if read == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(read)
    }
}

impl Captured {
    fn frame(self) -> Result<Vec<u8>> {
        match self.link {
            Some(Linktype::ETHERNET) => {}
            Some(Linktype::LINUX_SLL | LINUX_SLL2) => {
                bail!(
                    "it was captured at the device `any`, which keeps no Ethernet header: capture at the port"
                )
            }
            Some(Linktype(other)) => bail!("link type {other} is not Ethernet"),
            None => bail!("it is of an interface that the capture does not describe"),
        }
        let (bytes, length) = (self.bytes.len(), self.length);
        if bytes < length {
            bail!("only {bytes} of its {length} bytes were captured: capture whole packets (tcpdump -s 0)");
        }
        if bytes > LARGEST {
            bail!("it has {bytes} bytes, and a frame has at most {LARGEST}");
        }
        Ok(self.bytes)
    }
}

/// Of captures at `any` with libpcap 1.10 and later
const LINUX_SLL2: Linktype = Linktype(276);

/// The next packet; none at the end. `interfaces` are those that the capture has described so far.
fn next(reader: &mut dyn PcapReaderIterator, interfaces: &mut Vec<Linktype>) -> Result<Option<Captured>> {
    loop {
        let found = match reader.next() {
            Ok((length, block)) => Some((length, read(&block, interfaces))),
            Err(PcapError::Eof) => return Ok(None),
            Err(PcapError::Incomplete(_)) => None,
            Err(error) => return Err(unreadable(&error)),
        };
        let Some((length, captured)) = found else {
            if reader.reader_exhausted() {
                return Err(unreadable(&PcapError::<()>::UnexpectedEof));
            }
            let before = reader.data().len();
            reader.refill().map_err(|error| unreadable(&error))?;
            // A block that the buffer has no room for never comes.
            if reader.data().len() == before && !reader.reader_exhausted() {
                return Err(unreadable(&PcapError::<()>::BufferTooSmall));
            }
            continue;
        };
        reader.consume(length);
        if captured.is_some() {
            return Ok(captured);
        }
    }
}

fn read(block: &PcapBlockOwned<'_>, interfaces: &mut Vec<Linktype>) -> Option<Captured> {
    let captured = |data: &[u8], length: u32, link: Option<&Linktype>| {
        Some(Captured { bytes: data.to_vec(), length: length as usize, link: link.copied() })
    };
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            interfaces.push(header.network);
            None
        }
        PcapBlockOwned::Legacy(packet) => captured(packet.data, packet.origlen, interfaces.first()),
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            None
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            interfaces.push(interface.linktype);
            None
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            captured(packet.packet_data(), packet.origlen, interfaces.get(packet.if_id as usize))
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            captured(packet.packet_data(), packet.origlen, interfaces.first())
        }
        PcapBlockOwned::NG(_) => None,
    }
}

fn unreadable<I: std::fmt::Debug + Sized>(error: &PcapError<I>) -> anyhow::Error {
    match error {
        PcapError::HeaderNotRecognized => anyhow::anyhow!("this is no capture in the format pcap or pcapng"),
        PcapError::Eof | PcapError::UnexpectedEof | PcapError::Incomplete(_) => {
            anyhow::anyhow!("the capture ends in the middle of something")
        }
        PcapError::BufferTooSmall => anyhow::anyhow!("a block of the capture is larger than {BUFFER} bytes"),
        PcapError::ReadError => anyhow::anyhow!("it cannot be read"),
        PcapError::NomError(..) | PcapError::OwnedNomError(..) => {
            anyhow::anyhow!("the capture is damaged")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{io::Write as _, path::Path};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// pcap (draft-ietf-opsawg-pcap): a header, and packets of Ethernet.
    fn capture(packets: &[&[u8]]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4u32.to_le_bytes().to_vec();
        file.extend([2, 0, 4, 0].into_iter().chain([0; 8]));
        file.extend([65_535u32, 1].map(u32::to_le_bytes).concat());
        for packet in packets {
            let len = packet.len() as u32;
            file.extend([1, 0, len, len].map(u32::to_le_bytes).concat());
            file.extend(*packet);
        }
        file
    }

    #[test]
    fn a_capture_may_come_in_pieces() {
        let path = std::env::temp_dir().join(format!("eastgate-pipe-{}", std::process::id()));
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut pipe = File::options().write(true).open(path).unwrap();
                let file = capture(&[&[1; 60], &[2; 60]]);
                file.chunks(7).for_each(|piece| pipe.write_all(piece).unwrap());
            })
        };
        let found = packet(Path::new(&path), 2);
        writer.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found.unwrap(), [2; 60]);
    }
}
