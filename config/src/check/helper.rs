//! The helper that a rule names for the flows that it lets in.

use eastgate_wire::Helper;

use super::rule::protocol_text;
use crate::{
    leaf::{Action, RuleHelper},
    model::{Protocol, Rule},
    problem::Problem,
    read::Reader,
    tables::RuleTable,
};

/// The helper of a rule that does this with what it matches.
pub(super) fn helper(table: &RuleTable, action: Action, rule: &Rule, reader: &mut Reader) -> Option<Helper> {
    let named = table.helper.good()?;
    let helper = match named.value {
        RuleHelper::Ftp => Helper::Ftp,
        RuleHelper::Tftp => Helper::Tftp,
    };
    let what = match action {
        Action::Allow => None,
        Action::Deny | Action::Reject => Some("denies"),
        Action::Pass => Some("passes on"),
    };
    if let Some(what) = what {
        reader.report(Problem::HelperNotAllow { what }, named.span);
        return None;
    }
    // Of a port that could not be read something is said already.
    let has_ports = !rule.ports.is_empty() || !table.ports.is_missing();
    if rule.protocol == Protocol::Number(helper.protocol()) && has_ports {
        return Some(helper);
    }
    let rule =
        if has_ports { protocol_text(table) } else { format!("{} without `ports`", protocol_text(table)) };
    let proto = if helper == Helper::Ftp { "tcp" } else { "udp" };
    reader.report(Problem::HelperProtocol { helper: helper.name(), proto, rule }, named.span);
    None
}
