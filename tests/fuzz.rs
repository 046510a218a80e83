//! The entries that are fuzzed (`fuzz/entries.rs`), with the corpora that are committed and with what a few rounds of changing bytes
//! make of them. `EASTGATE_BLESS=1` writes the seeds anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../fuzz/entries.rs"]
#[allow(unreachable_pub, missing_docs, reason = "it is shared with the fuzz targets")]
mod entries;

use std::{collections::BTreeMap, fs, path::PathBuf};

use etherparse::PacketBuilder;

/// How often each seed is changed and tried.
const ROUNDS: usize = 400;

const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 0x11], [2, 0, 0, 0, 0, 0x12], [2, 0, 0, 0, 0, 0x21]];

/// What begins well-formed: by entry and name.
fn seeds() -> BTreeMap<(&'static str, &'static str), Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let ethernet = || PacketBuilder::ethernet2(MACS[0], MACS[2]);
    let v4 = || ethernet().ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64);
    let v6 = || {
        let end = |last| [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        ethernet().ipv6(end(0x11), end(0x21), 64)
    };
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        write(&mut frame);
        frame
    };
    let udp = written(&|out| v4().udp(4000, 53).write(out, b"question").unwrap());
    let tcp = written(&|out| v6().tcp(4000, 443, 1, 1000).syn().write(out, b"").unwrap());
    let echo = written(&|out| v4().icmpv4_echo_request(7, 1).write(out, b"ping").unwrap());
    let error = {
        let quoted = &udp[14..];
        written(&|out| {
            let raw = etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::Port,
            );
            v4().icmpv4(raw).write(out, quoted).unwrap();
        })
    };
    for (name, frame) in [("udp-v4", &udp), ("tcp-v6", &tcp), ("echo-v4", &echo), ("error-v4", &error)] {
        seeds.insert(("frame", name), frame.clone());
        let vxlan = [&[8, 0, 0, 0, 0, 0x13, 0x89, 0][..], frame].concat();
        seeds.insert(("decapsulation", name), vxlan);
    }
    let tagged = [&udp[..12], &[0x81, 0, 0, 7], &udp[12..]].concat();
    seeds.insert(("frame", "tagged"), tagged);

    let arp = |operation: u8, sender: u8, target: u8| {
        let mut frame =
            [&[0xff; 6][..], &MACS[0], &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &MACS[0]].concat();
        frame.extend([10, 1, 0, sender, 0, 0, 0, 0, 0, 0, 10, 1, 0, target]);
        frame
    };
    seeds.insert(("neighbors", "arp-request"), arp(1, 11, 21));
    seeds.insert(("neighbors", "arp-announcement"), arp(1, 11, 11));
    seeds.insert(("neighbors", "arp-reply"), arp(2, 11, 21));
    for (name, kind) in [("solicitation", 135), ("advertisement", 136), ("router-advertisement", 134)] {
        let end = |last| [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let mut body = end(0x21).to_vec();
        body.extend([1, 1]);
        body.extend(MACS[0]);
        let message = written(&|out| {
            let builder = PacketBuilder::ethernet2(MACS[0], [0x33, 0x33, 0xff, 0, 0, 0x21]);
            let builder = builder.ipv6(end(0x11), end(0x21), 255);
            builder.icmpv6_raw(kind, 0, [0; 4]).write(out, &body).unwrap();
        });
        seeds.insert(("neighbors", name), message);
    }

    let whole = written(&|out| v4().udp(4000, 53).write(out, &[7; 64]).unwrap());
    let piece = |offset: usize, end: usize, more: bool| {
        let mut frame = [&whole[..34], &whole[34 + offset..34 + end]].concat();
        frame[16..18].copy_from_slice(&(20 + (end - offset) as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        frame[24..26].fill(0);
        let sum = eastgate_wire::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let sequence = |frames: &[Vec<u8>]| {
        let one = |frame: &Vec<u8>| [&[0][..], &(frame.len() as u16).to_be_bytes(), frame].concat();
        frames.iter().flat_map(one).collect::<Vec<u8>>()
    };
    let pieces = [piece(0, 32, true), piece(32, 72, false)];
    seeds.insert(("fragments", "in-order"), sequence(&pieces));
    seeds.insert(("fragments", "last-first"), sequence(&[pieces[1].clone(), pieces[0].clone()]));
    seeds.insert(("fragments", "overlap"), sequence(&[pieces[0].clone(), piece(24, 72, false)]));

    let said = |lines: &[(u8, &str)]| {
        let one = |(by, line): &(u8, &str)| {
            [&[*by][..], &(line.len() as u16).to_be_bytes(), line.as_bytes()].concat()
        };
        lines.iter().flat_map(one).collect::<Vec<u8>>()
    };
    let (client, server) = (0, 1);
    seeds.insert(
        ("helpers", "active"),
        said(&[
            (server, "220 ready\r\n"),
            (client, "PORT 10,1,0,11,156,64\r\n"),
            (client, "EPRT |1|10.1.0.11|40001|\r\n"),
        ]),
    );
    seeds.insert(
        ("helpers", "passive"),
        said(&[
            (server, "220-Hello\r\n227 (10,1,0,21,0,22)\r\n220 ready\r\n"),
            (client, "PASV\r\nEPSV\r\n"),
            (server, "227 Entering Passive Mode (10,1,0,"),
            (server, "21,156,64).\r\n229 Entering Extended Passive Mode (|||40001|)\r\n"),
        ]),
    );
    seeds.insert(("helpers", "tftp"), said(&[(client, "\0\u{1}file\0octet\0blksize\u{0}1428\0")]));

    for (name, text) in [
        ("minimal", include_str!("../configs/minimal.toml")),
        ("many-errors", include_str!("../configs/broken/all-at-once.toml")),
    ] {
        seeds.insert(("config", name), text.as_bytes().to_vec());
    }
    for (name, text) in [
        ("status", "GET /v1/status"),
        ("flows", "GET /v1/flows?vni=5001&address=10.1.0.11&port=443&proto=tcp&limit=5&endpoint=acme%2Fweb1"),
        (
            "trace",
            "POST /v1/trace\n{\"vni\":5001,\"proto\":6,\"src\":\"10.1.0.11\",\"dst\":\"10.1.0.21\",\"sport\":1,\"dport\":2}",
        ),
    ] {
        seeds.insert(("control", name), text.as_bytes().to_vec());
    }
    seeds
}

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn the_seeds_are_what_is_committed() {
    for ((entry, name), bytes) in seeds() {
        let path = corpus().join(entry).join(name);
        if std::env::var_os("EASTGATE_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let found = fs::read(&path).unwrap_or_default();
        assert!(
            found == bytes,
            "{} is not what it is made of: EASTGATE_BLESS=1 writes it anew",
            path.display()
        );
    }
}

/// xorshift64*: the same changes in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % end.max(1)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.0 as u8),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                4 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                _ if at < bytes.len() => bytes[at] = self.0 as u8,
                _ => {}
            }
        }
    }
}

#[test]
fn no_entry_panics() {
    for (entry, run) in entries::ALL {
        let mut files: Vec<PathBuf> =
            fs::read_dir(corpus().join(entry)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{entry} has no corpus");
        for (number, file) in files.iter().enumerate() {
            let seed = fs::read(file).unwrap();
            run(&seed);
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1) << 32);
            let mut bytes = seed.clone();
            for round in 0..ROUNDS {
                if round % 16 == 0 {
                    bytes.clone_from(&seed);
                }
                dice.change(&mut bytes);
                run(&bytes);
            }
        }
    }
}
