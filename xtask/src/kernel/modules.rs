//! Kernel modules, and those that they need.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// The files of the modules that are wanted, each after those it needs, as `modules.dep` names them.
pub(super) fn in_order(wanted: &[&str], dependencies: &str, builtin: &str) -> Result<Vec<String>> {
    let known: BTreeMap<&str, (&str, Vec<&str>)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (name(file), (file, needs.split_whitespace().map(name).collect())))
        .collect();
    let mut order = Vec::new();
    for wanted in wanted {
        if !builtin.lines().any(|file| name(file) == *wanted) {
            add(wanted, &known, &mut order)?;
        }
    }
    Ok(order)
}

fn add(wanted: &str, known: &BTreeMap<&str, (&str, Vec<&str>)>, order: &mut Vec<String>) -> Result<()> {
    let Some((file, needs)) = known.get(wanted) else {
        bail!("this kernel has no module {wanted}");
    };
    // depmod has refused loops.
    for needed in needs {
        add(needed, known, order)?;
    }
    if !order.iter().any(|there| there == file) {
        order.push((*file).to_owned());
    }
    Ok(())
}

/// `kernel/net/sched/cls_bpf.ko` is `cls_bpf`.
fn name(file: &str) -> &str {
    let last = file.rsplit('/').next().unwrap_or(file);
    last.split('.').next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &[&str] = &["veth", "bridge", "vxlan", "sch_ingress", "cls_bpf"];

    const DEPENDENCIES: &str = "\
        kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
        kernel/net/802/stp.ko: kernel/net/llc/llc.ko\n\
        kernel/net/llc/llc.ko:\n\
        kernel/drivers/net/veth.ko:\n\
        kernel/drivers/net/dummy.ko:\n\
        kernel/drivers/net/vxlan/vxlan.ko: kernel/net/ipv4/udp_tunnel.ko\n\
        kernel/net/ipv4/udp_tunnel.ko:\n\
        kernel/net/sched/cls_bpf.ko:\n";

    #[test]
    fn each_comes_after_what_it_needs() {
        let order = in_order(WANTED, DEPENDENCIES, "kernel/net/sched/sch_ingress.ko\n").unwrap();
        let expected = [
            "kernel/drivers/net/veth.ko",
            "kernel/net/llc/llc.ko",
            "kernel/net/802/stp.ko",
            "kernel/net/bridge/bridge.ko",
            "kernel/net/ipv4/udp_tunnel.ko",
            "kernel/drivers/net/vxlan/vxlan.ko",
            "kernel/net/sched/cls_bpf.ko",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn one_that_is_nowhere_is_named() {
        let error = in_order(WANTED, DEPENDENCIES, "").unwrap_err();
        assert_eq!(error.to_string(), "this kernel has no module sch_ingress");
    }
}
