//! A flow that the pipeline hands over, as the programs have it.

use eastgate_conntrack::flow::{Count, Offloaded, Progress, Side};
use eastgate_dataplane::pipeline::offload::{Handover, Template};
use eastgate_fastpath::{
    self as kernel, Ends, Flow, Key, TEMPLATE_FROM_US, TEMPLATE_INHERIT_TOS, TEMPLATE_INHERIT_TTL,
    TEMPLATE_OPEN, TEMPLATE_ROUTED, TEMPLATE_TO_US, TcpSide,
};
use eastgate_vtep::{
    ecn::{OuterTos, OuterTtl},
    fdb::Location,
};

use super::{KernelPath, Tables, related};
use crate::io::clock;

impl KernelPath {
    pub(super) fn flow(
        &self,
        tables: &mut Tables,
        handover: &Handover,
        offloaded: &Offloaded,
    ) -> Option<(Key, Flow)> {
        let vni = offloaded.key.vni;
        let since = tables.decided_since(&offloaded.key, &handover.templates)?;
        if handover.epoch < since || handover.generation != tables.settings.generation {
            return None;
        }
        let (key, place) = Key::of(&offloaded.key);
        let network = self.network_place(tables, vni)?;
        if !self.still_held(tables, vni, handover.bindings) {
            return None;
        }
        let mut flow = Flow {
            network,
            epoch: handover.epoch,
            generation: tables.settings.generation,
            bindings: handover.bindings,
            ..Flow::default()
        };
        flow.opener = place as u8;
        let (ends, templates) = self.templates(tables, &handover.templates)?;
        let rules = [offloaded.admitted.egress_rule, offloaded.admitted.ingress_rule];
        for direction in 0..2 {
            flow.ends.at[place ^ direction] = ends.at[direction];
            flow.ends.macs[place ^ direction] = ends.macs[direction];
            let way = &mut flow.dirs[place ^ direction];
            way.template = templates[direction];
            if direction == 1 && !offloaded.replied {
                way.template.flags &= !TEMPLATE_OPEN;
            }
            way.tcp = tcp_side(&offloaded.sides[direction]);
            way.rule = rules[direction];
        }
        flow.dirs[0].template.header = offloaded.header.dscp;
        flow.dirs[1].template.header = offloaded.header.tcp_flags;
        if let Some(related) = &offloaded.related {
            related::write(&mut flow, related);
        }
        Some((key, flow))
    }

    /// Both ends of a flow, and how what comes from each leaves.
    pub(super) fn templates(
        &self,
        tables: &mut Tables,
        templates: &[Template; 2],
    ) -> Option<(Ends, [kernel::Template; 2])> {
        let [there, back] = templates;
        let ends = Ends {
            at: [self.endpoint(tables, there.from)?, self.endpoint(tables, there.to)?],
            macs: [there.in_macs[1].0, there.out_macs[0].0],
        };
        Some((ends, [Self::template(tables, there)?, Self::template(tables, back)?]))
    }

    fn template(tables: &Tables, template: &Template) -> Option<kernel::Template> {
        let (flags, tos, ttl) = outer_fields(template.tos, template.ttl);
        let mut kernel = kernel::Template {
            max_packet: template.max_packet,
            source_port_be: template.source_port.to_be_bytes(),
            tos,
            ttl,
            flags: flags | TEMPLATE_OPEN,
            header: 0,
        };
        if matches!(template.to, Location::Remote(_)) {
            tables.underlay?;
        }
        if template.in_macs[0] != template.out_macs[0] {
            kernel.flags |= TEMPLATE_TO_US;
        }
        if template.in_macs[1] != template.out_macs[1] {
            kernel.flags |= TEMPLATE_FROM_US;
        }
        if template.routed {
            kernel.flags |= TEMPLATE_ROUTED;
        }
        Some(kernel)
    }
}

/// `TEMPLATE_*`, TOS and TTL of outer headers. What is inherited has no value of its own.
pub(super) const fn outer_fields(tos: OuterTos, ttl: OuterTtl) -> (u8, u8, u8) {
    let (tos_flag, tos) = match tos {
        OuterTos::Fixed(tos) => (0, tos),
        OuterTos::Inherit => (TEMPLATE_INHERIT_TOS, 0),
    };
    let (ttl_flag, ttl) = match ttl {
        OuterTtl::Fixed(ttl) => (0, ttl),
        OuterTtl::Inherit => (TEMPLATE_INHERIT_TTL, 0),
    };
    (tos_flag | ttl_flag, tos, ttl)
}

/// `place`: which way the opener's packets take.
pub(super) fn progress(flow: &Flow, place: usize) -> Progress {
    let dirs = [&flow.dirs[place], &flow.dirs[place ^ 1]];
    Progress {
        sides: dirs.map(|way| Side {
            end: way.tcp.end,
            max_end: way.tcp.max_end,
            max_window: way.tcp.max_window,
            max_ack: way.tcp.max_ack,
            scale: way.tcp.scale,
            flags: way.tcp.flags.into(),
        }),
        counts: dirs.map(|way| Count { packets: way.packets, bytes: way.bytes }),
        last_seen: (flow.last_seen != 0).then(|| clock::from_monotonic(flow.last_seen)),
    }
}

fn tcp_side(side: &Side) -> TcpSide {
    TcpSide {
        end: side.end,
        max_end: side.max_end,
        max_window: side.max_window,
        max_ack: side.max_ack,
        scale: side.scale,
        flags: side.flags as u8,
        account_half: 0,
    }
}
