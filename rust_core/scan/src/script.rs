//! Scripts by content: which interpreter of the system would run this text.
//!
//! Signs are few and specific. Text that is a script by its extension only is treated in `walk`.

use crate::bytes::has;

/// Signs that each count one; two of one language are a script.
const SIGNS: &[(&str, &[&str])] = &[
    (
        "ps1",
        &[
            "invoke-expression",
            "invoke-webrequest",
            "new-object ",
            "write-host",
            "frombase64string",
            "[convert]::",
            "downloadstring",
            "downloadfile",
            "-executionpolicy",
            "-encodedcommand",
            "$env:",
            "start-process",
            "set-executionpolicy",
            "get-wmiobject",
            "[system.",
            "add-type ",
            "iex(",
            "iex (",
        ],
    ),
    (
        "vbs",
        &[
            "createobject(",
            "wscript.shell",
            "wscript.",
            "on error resume next",
            "end sub",
            "end function",
            "\ndim ",
            "chr(",
            "execute(",
            "executeglobal",
            "scripting.filesystemobject",
            "msxml2.xmlhttp",
            "adodb.stream",
        ],
    ),
    (
        "js",
        &[
            "new activexobject",
            "wscript.",
            "wsh.",
            "eval(",
            "string.fromcharcode",
            "unescape(",
            "scripting.filesystemobject",
            "msxml2.xmlhttp",
            "adodb.stream",
        ],
    ),
    (
        "bat",
        &[
            "@echo off",
            "%comspec%",
            "%~dp0",
            "%appdata%",
            "%temp%",
            "\nset ",
            "\ngoto ",
            "powershell -",
            "cmd /c",
            "cmd.exe /c",
            "certutil ",
            "bitsadmin ",
            "\nif exist ",
            "regsvr32 ",
            "mshta ",
        ],
    ),
];

/// The script's usual extension. `start` and `head` are the text in lower case, the former without white space before it.
pub fn of(start: &[u8], head: &[u8]) -> Option<&'static str> {
    if start.starts_with(b"#!") {
        return Some("sh");
    }
    if start.starts_with(b"<?php") || start.starts_with(b"<?=") {
        return Some("php");
    }
    if start.starts_with(b"windows registry editor version") || start.starts_with(b"regedit4") {
        return Some("reg");
    }
    if start.starts_with(b"@echo ") || start.starts_with(b"rem ") && has(head, "\nset ") {
        return Some("bat");
    }
    if start.starts_with(b"#@~^") {
        return Some("vbe");
    }
    if start.starts_with(b"<job") || start.starts_with(b"<package") && has(head, "<script") {
        return Some("wsf");
    }
    if start.starts_with(b"<?xml") && (has(head, "<scriptlet") || has(head, "<component")) && has(head, "<script") {
        return Some("sct");
    }
    SIGNS.iter().find(|(_, signs)| signs.iter().filter(|sign| has(head, sign)).take(2).count() == 2).map(|(name, _)| *name)
}

/// Extensions whose text an interpreter runs when the file is opened.
pub const EXTENSIONS: &[&str] = &[
    "bat",
    "cmd",
    "ps1",
    "psm1",
    "psd1",
    "vbs",
    "vbe",
    "js",
    "jse",
    "wsf",
    "wsh",
    "wsc",
    "sct",
    "hta",
    "sh",
    "bash",
    "csh",
    "ksh",
    "command",
    "py",
    "pyw",
    "pl",
    "rb",
    "php",
    "reg",
    "inf",
    "scf",
    "ahk",
    "au3",
    "applescript",
    "scpt",
];
