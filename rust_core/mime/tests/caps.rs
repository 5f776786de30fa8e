//! What happens at the caps: a defect and the verdict "incomplete", never silence; and what lies behind a cap is taken in linear time.

use gatepost_mime::{Analysis, DefectKind, Kind, Limits, analyse};

fn has(analysis: &Analysis, kind: DefectKind) -> bool {
    analysis.defects.iter().any(|defect| defect.kind == kind)
}

fn names(header: &str) -> (Vec<String>, Analysis) {
    let analysis = analyse(format!("{header}\r\n\r\nx").as_bytes(), &Limits::default());
    (analysis.leaves[0].names.iter().map(|name| name.text.clone()).collect(), analysis)
}

/// Every open multipart has the same boundary, so each delimiter fits all of them. Within the caps all of them are asked, and the doubt is
/// told; beyond a cap the innermost takes it at once, else 100 MB of this would take minutes.
#[test]
fn nested_multiparts_that_share_a_boundary_go_on_behind_the_cap_without_asking_all_of_them() {
    let level = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n";
    let limits = Limits { depth: 5, ..Limits::default() };
    let few = [level.repeat(3).as_slice(), b"\r\nx\r\n--a\r\n\r\ny\r\n--a--\r\n"].concat();
    let analysis = analyse(&few, &limits);
    assert!(has(&analysis, DefectKind::SharedBoundary) && !analysis.incomplete);
    assert_eq!(analysis.index.parts[2].children.len(), 2, "the innermost takes its delimiter");

    let many = [level.repeat(20).as_slice(), b"\r\nx\r\n--a\r\n\r\ny\r\n--a--\r\n--a\r\n\r\nz\r\n"].concat();
    let analysis = analyse(&many, &limits);
    assert!(analysis.incomplete && has(&analysis, DefectKind::TooDeep));
    let index = &analysis.index;
    let multiparts = index.parts.iter().filter(|part| part.kind == Kind::Multipart).count();
    assert_eq!(multiparts, 4, "none is opened beyond the cap on depth");
    // Level five and all that follow lie in the innermost multipart, and its delimiter divides them.
    assert_eq!(index.parts[3].children.len(), 18);
    let shared = analysis.defects.iter().filter(|defect| defect.kind == DefectKind::SharedBoundary).count();
    assert!(shared < 8, "behind the cap nobody asks whose delimiter a line is: {shared}");
}

#[test]
fn of_too_many_names_the_last_is_kept() {
    let parameters: Vec<String> = (0..40).map(|n| format!("; filename=a{n}.txt")).collect();
    let (found, analysis) = names(&format!("Content-Disposition: attachment{}; filename=last.exe", parameters.concat()));
    assert!(found.contains(&"last.exe".into()), "{found:?}");
    assert!(analysis.ambiguous);
}

#[test]
fn a_name_behind_too_many_parameters_is_told() {
    let parameters: Vec<String> = (0..100).map(|n| format!("; p{n}=v")).collect();
    let (found, analysis) = names(&format!("Content-Disposition: attachment{}; filename=late.exe", parameters.concat()));
    assert!(analysis.incomplete && has(&analysis, DefectKind::TooManyParameters), "{found:?}");
}

#[test]
fn a_name_that_is_too_long_keeps_its_end() {
    let (found, _) = names(&format!("Content-Disposition: attachment; filename={}.exe", "a".repeat(5_000)));
    assert!(found[0].ends_with("a.exe") && found[0].len() <= 1_000, "{found:?}");
}

#[test]
fn every_cap_of_the_structure_makes_the_message_incomplete() {
    let multipart = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let cases = [
        (DefectKind::TooManyParts, format!("{multipart}{}", "--b\r\n\r\nx\r\n".repeat(4_100))),
        (DefectKind::TooManyFields, format!("{}\r\n", "a: b\r\n".repeat(20_100))),
        (DefectKind::HeaderTooLarge, format!("a: {}\r\n\r\n", "b".repeat(2 << 20))),
        (DefectKind::TooDeep, "Content-Type: message/rfc822\r\n\r\n".repeat(70)),
        (DefectKind::BoundaryTooLong, format!("Content-Type: multipart/mixed; boundary={}\r\n\r\nx", "b".repeat(1_000))),
    ];
    for (kind, message) in cases {
        let analysis = analyse(message.as_bytes(), &Limits::default());
        assert!(analysis.incomplete && has(&analysis, kind), "{kind:?}: {:?}", analysis.defects);
    }
}
