//! What a rule grants each source.

use crate::{
    leaf::Action,
    model::{NewConnections, SourceLimits},
    problem::Problem,
    read::{Reader, Span},
    tables::RuleTable,
};

/// The limits of a rule that does this with what it matches.
pub(super) fn limits(table: &RuleTable, action: Action, reader: &mut Reader) -> Option<Box<SourceLimits>> {
    let RuleTable { connections, new_connections, per_prefix, .. } = table;
    let limits = SourceLimits {
        connections: connections.good().map(|most| most.value.get()),
        new_connections: new_connections.good().and_then(|new| {
            let per_second = new.value.per_second.good()?.value.get();
            let burst = new.value.burst.good().map_or(per_second, |burst| burst.value.get());
            Some(NewConnections { per_second, burst })
        }),
        per_prefix: per_prefix
            .good()
            .map_or([32, 128], |len| [len.value.ipv4.value.get(), len.value.ipv6.value.get()]),
    };
    let what = match action {
        Action::Allow => {
            if let (Some(len), true) =
                (per_prefix.good(), connections.is_missing() && new_connections.is_missing())
            {
                reader.report(Problem::PrefixAlone {}, len.span);
            }
            let grants_all = limits.connections.is_none() && limits.new_connections.is_none();
            return (!grants_all).then(|| Box::new(limits));
        }
        Action::Deny | Action::Reject => "denies",
        Action::Pass => "passes on",
    };
    let written: [(&'static str, Option<Span>); 3] = [
        ("connections", connections.good().map(|at| at.span)),
        ("new_connections", new_connections.good().map(|at| at.span)),
        ("per_prefix", per_prefix.good().map(|at| at.span)),
    ];
    for (key, span) in written.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        reader.report(Problem::LimitNotAllow { key, what }, span);
    }
    None
}
