//! A SEARCH tree from its Python form: nested lists with the key's name first (see `_core.pyi`).

use gatepost_store::{Needle, Query, StoreError, When, parse_day};
use pyo3::prelude::*;

use crate::store::from_store;

/// Nesting of a query.
const DEPTH_MAX: usize = 64;

fn bad(why: &str) -> PyErr {
    from_store(&StoreError::Invalid(format!("search query: {why}")))
}

/// Convert; anything malformed is an `InvalidError`.
pub fn query(value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Query> {
    if depth > DEPTH_MAX {
        return Err(bad("nested too deeply"));
    }
    let list: Vec<Bound<'_, PyAny>> = value.extract()?;
    let (key, args) = list.split_first().ok_or_else(|| bad("empty key"))?;
    let key: String = key.extract()?;
    let inner = |n: usize| query(args.get(n).ok_or_else(|| bad("a key is missing"))?, depth + 1);
    let all = || args.iter().map(|a| query(a, depth + 1)).collect::<PyResult<Vec<_>>>();
    Ok(match key.as_str() {
        "ALL" => Query::All,
        "AND" => Query::And(all()?),
        "OR" => Query::Or(all()?),
        "NOT" => Query::Not(Box::new(inner(0)?)),
        "UID" => Query::Uid(ranges(args)?),
        "FLAG" => Query::Flag(text(args, 0)?),
        "HEADER" => Query::Header(text(args, 0)?, Needle::new(&text(args, 1)?)),
        "BODY" => Query::Body(Needle::new(&text(args, 0)?)),
        "TEXT" => Query::Text(Needle::new(&text(args, 0)?)),
        "LARGER" => Query::Larger(number(args)?),
        "SMALLER" => Query::Smaller(number(args)?),
        "MODSEQ" => Query::Modseq(number(args)?),
        _ => dated(&key, args)?,
    })
}

fn dated(key: &str, args: &[Bound<'_, PyAny>]) -> PyResult<Query> {
    let (sent, word) = key.strip_prefix("SENT").map_or((false, key), |word| (true, word));
    let when = match word {
        "BEFORE" => When::Before,
        "ON" => When::On,
        "SINCE" => When::Since,
        _ => return Err(bad(&format!("unknown key {key}"))),
    };
    let day = parse_day(&text(args, 0)?).ok_or_else(|| bad("not a date"))?;
    Ok(if sent { Query::Sent(when, day) } else { Query::Internal(when, day) })
}

fn text(args: &[Bound<'_, PyAny>], n: usize) -> PyResult<String> {
    args.get(n).ok_or_else(|| bad("a text is missing"))?.extract()
}

fn number(args: &[Bound<'_, PyAny>]) -> PyResult<i64> {
    args.first().ok_or_else(|| bad("a number is missing"))?.extract()
}

fn ranges(args: &[Bound<'_, PyAny>]) -> PyResult<Vec<(i64, i64)>> {
    let numbers = args.iter().map(PyAnyMethods::extract).collect::<PyResult<Vec<i64>>>()?;
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
