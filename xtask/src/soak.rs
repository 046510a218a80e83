//! `cargo xtask soak`: what the tests do in seconds, for as long as it takes to meet what is rare: the same frames through
//! both dataplanes, daemons killed and started again under load, and more flows than a table holds.

use std::process::Command;

use anyhow::{Context, Result};
use indicatif::HumanDuration;

use crate::packages::{self, Need};
use crate::{cargo, privilege, run, target, test, workspace};

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Frames to send through the pipeline and through the programs, in each of the runs
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    frames: u64,
    /// Runs, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 4)]
    runs: u64,
    /// The first seed; the others count up from it
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// How often a daemon is killed and started again while traffic goes on
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: u32,
    /// How often each host of the labs 10 to 15 is stopped, killed, tampered with and unplugged while what they refuse is sent; 100 take
    /// some two hours
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: u32,
    /// For how long 3,000 exchanges of UDP and 3,000 connections a second come and go on default limits
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    churn: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let started = std::time::Instant::now();
    packages::install(Need::Test)?;
    for seed in (options.seed..).step_by(SEEDS_A_RUN).take(options.runs.try_into()?) {
        println!("\nThe same {} frames through both dataplanes, seed {seed}", options.frames);
        let mut cargo = test_of(&["--lib", "the_programs_do_what_the_pipeline_does"])?;
        cargo.env("EASTGATE_TWIN_FRAMES", options.frames.to_string());
        cargo.env("EASTGATE_TWIN_SEED", seed.to_string());
        run::visible(&mut cargo).with_context(|| format!("seed {seed}"))?;
    }
    if options.kills > 0 {
        println!("\n{} times a daemon is killed and started again, under load", options.kills);
        let mut cargo = test_of(&["--test", "fastpath", "no_packet_is_lost"])?;
        cargo.env("EASTGATE_KILLS", options.kills.to_string());
        run::visible(&mut cargo)?;
    }
    if options.rounds > 0 {
        println!("\nWhat labs refuse, while their hosts are disturbed {} times in each way", options.rounds);
        let mut cargo = test_of(&["--test", "labs", "stress"])?;
        cargo.env("EASTGATE_ROUNDS", options.rounds.to_string());
        run::visible(&mut cargo)?;
    }
    if options.churn > 0 {
        println!(
            "\n3,000 exchanges and 3,000 connections a second on default limits, for {} s",
            options.churn
        );
        let mut cargo = test_of(&["--test", "economy", "three_thousand"])?;
        cargo.env("EASTGATE_ECONOMY_SECONDS", options.churn.to_string());
        run::visible(&mut cargo)?;
    }
    privilege::give_back(&target()?)?;
    println!("\nNothing was found in {}.", HumanDuration(started.elapsed()));
    Ok(())
}

/// One test run takes this many seeds.
const SEEDS_A_RUN: usize = 2;

fn test_of(which: &[&str]) -> Result<Command> {
    let mut cargo = cargo();
    cargo.current_dir(workspace()?).args(["test", "--quiet", "--package", "eastgate"]);
    test::run_as_root_what_needs_it(&mut cargo)?;
    cargo.args(which).args(["--", "--nocapture"]);
    Ok(cargo)
}
