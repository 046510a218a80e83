//! `eastgate token`: who may ask over the network.

use anyhow::{Result, anyhow};
use clap::{Subcommand, ValueEnum};
use eastgate_api::Role;
use serde_json::json;

use super::{args::Output, commands::emit};
use crate::control::tokens;

/// `eastgate token`
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Print a token that nobody has had before, and the table for the file of --api-tokens
    #[command(
        after_help = "The token is shown this once: the table has its hash. Whoever asks shows it as `Authorization: Bearer TOKEN`.\nTo take it back, take its table out of the file.\n\nExamples:\n  eastgate token new ops --role administer\n  eastgate token new acme-watch --tenant acme --expires 2030-12-31"
    )]
    New {
        /// What the log calls whoever has it
        #[arg(value_parser = parse_name)]
        name: String,
        /// What may be done with it
        #[arg(long, value_enum, default_value = "read")]
        role: RoleArg,
        /// Only rows of this tenant; may be given again
        #[arg(long = "tenant", value_name = "NAME")]
        tenants: Vec<String>,
        /// The last day that it is good for, such as 2030-12-31
        #[arg(long, value_name = "DAY")]
        expires: Option<toml::value::Datetime>,
        /// Output
        #[command(flatten)]
        output: Output,
    },
}

/// A role, as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// What changes nothing
    Read,
    /// And ending flows, forgetting learned addresses, probes
    Operate,
    /// And the configuration
    Administer,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Read => Self::Read,
            RoleArg::Operate => Self::Operate,
            RoleArg::Administer => Self::Administer,
        }
    }
}

impl TokenCommand {
    /// How its answer is printed.
    pub(super) const fn output(&self) -> super::args::Format {
        let Self::New { output, .. } = self;
        output.output
    }
}

pub(super) fn run(command: &TokenCommand) -> Result<u8> {
    let TokenCommand::New { name, role, tenants, expires, output } = command;
    let (token, hash) = tokens::make().map_err(|why| anyhow!(why))?;
    let mut table = format!("[token.{name}]\nsha256 = \"{hash}\"\nrole = \"{}\"\n", Role::from(*role).name());
    if !tenants.is_empty() {
        // A string of TOML with the escapes that JSON has, too.
        table += &format!("tenants = {}\n", json!(tenants));
    }
    if let Some(expires) = expires {
        table += &format!("expires = {expires}\n");
    }
    // It is taken as it is pasted.
    tokens::read("table", &table)?;
    let answer = json!({ "token": token, "table": table });
    emit(output, &answer, |_| {
        format!("{token}\n\nNobody is shown this again. For the file of --api-tokens:\n\n{table}")
    })
}

fn parse_name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        return Err("a name has letters, digits, - and _, at most 64".into());
    }
    Ok(text.to_owned())
}
