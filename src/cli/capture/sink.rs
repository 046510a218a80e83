//! Where captured packets go: lines for people and programs, or a file for Wireshark.

use std::time::SystemTime;

use anyhow::{Context, Result};
use eastgate_wire::{Vni, names};
use serde::Serialize;

use super::{Capture, Device, Packet, file::CaptureFile, told::Fate};
use crate::cli::{args::Format, observe::time_of_day};

/// Where packets go.
pub(super) enum Sink {
    Lines(Format),
    File(CaptureFile),
}

impl Sink {
    pub(super) fn open(options: &Capture, devices: &[Device]) -> Result<Self> {
        let Some(path) = &options.write else { return Ok(Self::Lines(options.output)) };
        let interfaces = devices.iter().map(|device| {
            let whose: Vec<String> = device.endpoints.iter().map(|it| it.row.endpoint.clone()).collect();
            let what = match &whose[..] {
                [] => "underlay".to_owned(),
                whose => format!("port of {}", names::some_of(whose, 8, ", ")),
            };
            (device.name.clone(), what)
        });
        let file = CaptureFile::create(path, interfaces.collect(), options.max_size, options.keep);
        Ok(Self::File(file.with_context(|| format!("{} cannot be written", path.display()))?))
    }

    pub(super) fn write(&mut self, device: &Device, packet: &Packet, fate: &Fate) -> Result<()> {
        match self {
            Self::Lines(Format::Json) => {
                let row = Row {
                    time_us: u64::try_from(packet.captured.at.as_micros()).unwrap_or(u64::MAX),
                    device: &device.name,
                    direction: packet.direction(),
                    vni: packet.vni,
                    endpoint: packet.endpoint.as_deref(),
                    length: packet.captured.bytes.len(),
                    fate,
                };
                println!("{}", serde_json::to_string(&row)?);
                Ok(())
            }
            Self::Lines(Format::Text) => {
                let millis = u64::try_from(packet.captured.at.as_millis()).unwrap_or(u64::MAX);
                println!(
                    "{} {} {:<3} {}",
                    time_of_day(millis),
                    device.name,
                    packet.direction(),
                    fate.line(packet.endpoint.as_deref(), packet.is_of_port() && packet.captured.outgoing)
                );
                Ok(())
            }
            Self::File(file) => file.write(
                packet.device,
                packet.captured.at,
                packet.captured.outgoing,
                &packet.captured.bytes,
                &fate.comment(packet.endpoint.as_deref()),
                fate.passed(),
            ),
        }
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::File(file) => file.flush(),
        }
    }

    pub(super) fn finish(&mut self, lost: u64) -> Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::File(file) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                file.finish(now, lost)
            }
        }
    }
}

/// As `-o json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    /// Microseconds since 1970
    time_us: u64,
    device: &'a str,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vni: Option<Vni>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    length: usize,
    #[serde(flatten)]
    fate: &'a Fate,
}
