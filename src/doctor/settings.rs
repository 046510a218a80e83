//! Interface settings: are they as eastgate wants them, and what file would set them otherwise.

use eastgate_steering::settings::{Setting, diff};
use eastgate_wire::Family;

use super::{Findings, check::Check, facts::Facts, some};
use crate::io::survey::sysctl_files::Assignment;

pub(super) fn examine(facts: &Facts, found: &mut Findings) {
    let Some(site) = &facts.site else { return };
    // Without a daemon nobody has set them yet.
    if facts.answers().is_some()
        && let Some(observed) = found.look("interface settings", &site.observed)
    {
        let changes = diff(observed, &site.settings).changes;
        if changes.is_empty() {
            found.ok(Check::Settings, format!("{} are as they should be", site.settings.len()));
        } else {
            let texts =
                changes.iter().map(|change| format!("{} is {}, not {}", change.id, change.from, change.to));
            found.warning(Check::Settings, some(texts), None);
        }
    }
    let mut against: Vec<String> = Vec::new();
    for line in &site.assignments {
        let against_it = site.settings.iter().filter(|setting| is_against(line, setting));
        let names: Vec<&str> = against_it.map(|setting| &*setting.interface).collect();
        if !names.is_empty() {
            let Assignment { at, family, scope, name, value } = line;
            let on = some(names);
            against.push(format!(
                "{at} sets net.{family}.conf.{scope}.{name} to {value}, against what {on} needs"
            ));
        }
    }
    if against.is_empty() {
        found.ok(Check::SettingsFile, "no file of sysctl sets them otherwise");
    }
    for text in against {
        found.note(Check::SettingsFile, text, None);
    }
}

/// Whether a line, applied while eastgate's own values stand, would undo one.
fn is_against(line: &Assignment, setting: &Setting) -> bool {
    let family = if setting.key.family() == Family::V4 { "ipv4" } else { "ipv6" };
    if line.family != family || line.name != setting.key.name() || setting.key.table() != "conf" {
        return false;
    }
    match &*line.scope {
        "all" if setting.key.uses_all() => {
            !setting.accepts(setting.key.effective(line.value, setting.wanted, false))
        }
        "all" | "default" => false,
        scope => (scope == "*" || scope == setting.interface) && !setting.accepts(line.value),
    }
}
