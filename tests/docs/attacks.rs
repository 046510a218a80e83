//! What is tried against eastgate and what becomes of it: docs/attacks.md, from the list that tests/attacks.rs plays.

use std::fmt::Write as _;

#[path = "../attacks/cases.rs"]
mod cases;

use eastgate_wire::DropReason;

/// The test that plays the cases.
const PLAYED_BY: &str = "tests/attacks.rs::what_is_tried_against_others_does_not_reach_them";

#[test]
fn what_is_tried_against_it() {
    let mut page = format!(
        "# What is tried against it\n\n{}\n\n\
         A guest that wants what is not its own, a host of the underlay that is no VTEP, an operator's mistake: what each may try, and what \
         becomes of it. Where a [reason](drop-reasons.md) is named, each frame counts under it, and reaches nobody.\n\n\
         A test that is a single word is a case of `{PLAYED_BY}`: frames that scapy builds (tests/scapy/attacks.py), sent by a guest against one \
         on its own host and one on another, in both dataplanes, with `neighbors = \"suppress\"` and `\"proxy\"`.\n",
        super::NOTE
    );
    for section in cases::SECTIONS {
        let _ =
            write!(page, "\n## {}\n\n| tried | becomes of it | test |\n| --- | --- | --- |\n", section.title);
        for case in section.cases {
            assert!(DropReason::ALL.iter().any(|reason| reason.name() == case.reason), "{}", case.reason);
            let first = if case.passes > 0 { "; what came before it passes" } else { "" };
            let _ =
                writeln!(page, "| {} | `{}`{first} | {} |", super::cell(case.sent), case.reason, case.name);
        }
        for (tried, becomes, test) in section.elsewhere {
            let _ = writeln!(page, "| {} | {becomes} | `{test}` |", super::cell(tried));
        }
    }
    super::hold("docs/attacks.md", &page);
}
