//! Messages for the benches of the mime crate: ordinary ones by size, and hostile ones that quadratic parsers choke on.

/// Lines of base64 that decode to about `octets`.
pub fn base64_lines(octets: usize) -> Vec<u8> {
    let line = b"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuIE1hbnkgaGFuZHMgbWFrZSBsaWdodCB3b3JrLiBN\r\n";
    line.repeat(octets / 57 + 1)
}

/// A letter of about `octets` with a text and an attachment.
pub fn letter(octets: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for n in 0..5 {
        out.extend_from_slice(format!("Received: from a{n}.example (a.example [192.0.2.{n}])\r\n\tby b.example with ESMTP id {n}; Mon, 1 Jan 2024 00:00:00 +0000\r\n").as_bytes());
    }
    out.extend_from_slice(b"From: A <a@x.test>\r\nTo: B <b@x.test>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@x>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b1\"\r\n\r\n");
    out.extend_from_slice(b"--b1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n");
    out.extend_from_slice(&b"Lorem ipsum dolor sit amet consetetur sadipscing elitr=20sed\r\n".repeat(14));
    out.extend_from_slice(b"--b1\r\nContent-Type: application/pdf; name=\"a.pdf\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"a.pdf\"\r\n\r\n");
    let room = octets.saturating_sub(out.len() + 8);
    out.extend_from_slice(&base64_lines(room * 57 / 78));
    out.extend_from_slice(b"--b1--\r\n");
    out
}

/// Messages of `octets` each that took minutes in parsers that rescan: name and octets.
pub fn hostile(octets: usize) -> Vec<(&'static str, Vec<u8>)> {
    let filled = |head: &[u8], piece: &[u8]| [head, &piece.repeat(octets / piece.len()), b"\r\n\r\n"].concat();
    vec![
        ("parentheses", filled(b"Content-Type: ", b"(")),
        ("boundaries", filled(b"Content-Type: multipart/mixed; ", b"boundary=")),
        ("nested", filled(b"", b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n")),
        ("dashes", filled(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n", b"--\n")),
        ("fields", filled(b"", b"a:\n")),
        ("prefixes", filled(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n", b"--ab\n")),
    ]
}
