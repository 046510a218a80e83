//! pcapng (draft-ietf-opsawg-pcapng): packets with their interface, direction, comment and verdict, in files that make room.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, InterfaceStatisticsBlock, Linktype, OptionCode,
    PcapNGOption, SectionHeaderBlock, ToVec,
};

use crate::export::rotation;

/// What machines say to each other is not for everybody.
const MODE: u32 = 0o640;
/// Options of packets: direction and others; what a program or a device has decided
const EPB_FLAGS: OptionCode = OptionCode(2);
const EPB_VERDICT: OptionCode = OptionCode(7);
/// What the numbers of that option are of: the codes of eBPF programs in traffic control
const BY_EBPF_TC: u8 = 1;
const TC_ACT_OK: u64 = 0;
const TC_ACT_SHOT: u64 = 2;
/// Times are in nanoseconds: 10^-9 s.
const NANOSECONDS: u8 = 9;

/// A capture that is written.
pub(super) struct CaptureFile {
    /// None: standard output
    path: Option<PathBuf>,
    /// Name and description of each
    interfaces: Vec<(String, String)>,
    most: Option<u64>,
    keep: u32,
    out: Box<dyn Write>,
    len: u64,
}

impl CaptureFile {
    /// Begins a file in place of one of its name; `-` is standard output.
    pub(super) fn create(
        path: &Path,
        interfaces: Vec<(String, String)>,
        most: Option<u64>,
        keep: u32,
    ) -> Result<Self> {
        let path = (path != Path::new("-")).then(|| path.to_owned());
        let out: Box<dyn Write> = match &path {
            Some(path) => Box::new(BufWriter::new(fresh(path)?)),
            None => Box::new(BufWriter::new(io::stdout())),
        };
        let most = most.filter(|_| path.is_some());
        let mut this = Self { path, interfaces, most, keep, out, len: 0 };
        this.begin()?;
        this.flush()?;
        Ok(this)
    }

    /// One packet of the interface with this number, and whether it passed, where that is known.
    pub(super) fn write(
        &mut self,
        interface: usize,
        at: Duration,
        outgoing: bool,
        bytes: &[u8],
        comment: &str,
        passed: Option<bool>,
    ) -> Result<()> {
        let direction = if outgoing { 2u32 } else { 1 };
        let mut options =
            vec![text(OptionCode::Comment, comment), option(EPB_FLAGS, direction.to_le_bytes().to_vec())];
        if let Some(passed) = passed {
            let code = if passed { TC_ACT_OK } else { TC_ACT_SHOT };
            options.push(option(EPB_VERDICT, [&[BY_EBPF_TC][..], &code.to_le_bytes()].concat()));
        }
        let [ts_high, ts_low] = halves(at);
        let len = u32::try_from(bytes.len())?;
        let mut block = EnhancedPacketBlock {
            block_type: 0,
            block_len1: 0,
            if_id: u32::try_from(interface)?,
            ts_high,
            ts_low,
            caplen: len,
            origlen: len,
            data: bytes,
            options,
            block_len2: 0,
        };
        self.put(&block.to_vec()?)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.out.flush().with_context(|| self.name())
    }

    /// Says how many were lost, of all interfaces together, and ends.
    pub(super) fn finish(&mut self, at: Duration, lost: u64) -> Result<()> {
        let [ts_high, ts_low] = halves(at);
        let mut block = InterfaceStatisticsBlock {
            block_type: 0,
            block_len1: 0,
            if_id: 0,
            ts_high,
            ts_low,
            options: vec![option(OptionCode::IsbIfDrop, lost.to_le_bytes().to_vec())],
            block_len2: 0,
        };
        let bytes = block.to_vec()?;
        self.out.write_all(&bytes).with_context(|| self.name())?;
        self.flush()
    }

    /// A section with its interfaces, which each file has.
    fn begin(&mut self) -> Result<()> {
        let program = format!("eastgate {}", env!("CARGO_PKG_VERSION"));
        let mut header = SectionHeaderBlock {
            block_type: 0,
            block_len1: 0,
            bom: 0,
            major_version: 0,
            minor_version: 0,
            section_len: -1,
            options: vec![text(OptionCode::ShbUserAppl, &program)],
            block_len2: 0,
        };
        let mut bytes = header.to_vec()?;
        for (name, what) in &self.interfaces {
            let mut interface = InterfaceDescriptionBlock {
                block_type: 0,
                block_len1: 0,
                linktype: Linktype::ETHERNET,
                reserved: 0,
                snaplen: 0,
                options: vec![text(OptionCode::IfName, name), text(OptionCode::IfDescription, what)],
                block_len2: 0,
                if_tsresol: NANOSECONDS,
                if_tsoffset: 0,
            };
            bytes.extend(interface.to_vec()?);
        }
        self.out.write_all(&bytes).with_context(|| self.name())?;
        self.len = bytes.len() as u64;
        Ok(())
    }

    fn put(&mut self, block: &[u8]) -> Result<()> {
        let is_full = self.most.is_some_and(|most| self.len + block.len() as u64 > most);
        if is_full && let Some(path) = self.path.clone() {
            self.flush()?;
            rotation::make_way(&path, self.keep).with_context(|| self.name())?;
            self.out = Box::new(BufWriter::new(fresh(&path).with_context(|| self.name())?));
            self.begin()?;
        }
        self.out.write_all(block).with_context(|| self.name())?;
        self.len += block.len() as u64;
        Ok(())
    }

    fn name(&self) -> String {
        let name =
            self.path.as_ref().map_or_else(|| "standard output".into(), |path| path.display().to_string());
        format!("{name} cannot be written")
    }
}

fn fresh(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(MODE).open(path)
}

/// 64 bits of nanoseconds, the upper ones first
fn halves(at: Duration) -> [u32; 2] {
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    [(nanos >> 32) as u32, nanos as u32]
}

/// Its value is filled up to whole words; how long it is without that stands before it.
fn option(code: OptionCode, mut value: Vec<u8>) -> PcapNGOption<'static> {
    let len = value.len() as u16;
    value.resize(value.len().next_multiple_of(4), 0);
    PcapNGOption { code, len, value: Cow::Owned(value) }
}

fn text(code: OptionCode, text: &str) -> PcapNGOption<'static> {
    const LONGEST: usize = 8192;
    let end = text.floor_char_boundary(LONGEST);
    option(code, text.as_bytes().get(..end).unwrap_or_default().to_vec())
}
