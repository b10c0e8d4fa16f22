//! What a stream's query asks for, in the kubelet's words. Pure.

use http::HeaderMap;
use http::header::UPGRADE;
use std::borrow::Cow;

/// Which streams a command or an attachment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // the flags of the query, each apart from the others
pub struct StreamOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
    #[error("query parameter \"port\" is required")]
    NoPort,
    #[error("unable to parse {0:?} as a port")]
    BadPort(String),
}

impl StreamOptions {
    pub fn from_query(query: &str) -> Result<Self, OptionsError> {
        let set = |key: &str| pairs(query).find(|(held, _)| held == key).is_some_and(|(_, value)| value == "1");
        let tty = set("tty");
        // A terminal has one output; runtimes refuse both.
        let options = Self { stdin: set("input"), stdout: set("output"), stderr: set("error") && !tty, tty };
        if options.stdin || options.stdout || options.stderr { Ok(options) } else { Err(OptionsError::NoStream) }
    }
}

/// The words of the command of `exec`.
pub fn command(query: &str) -> Vec<String> {
    pairs(query).filter(|(key, _)| key == "command").map(|(_, value)| value.into_owned()).collect()
}

/// The words of the command of `run`, which has it in one parameter.
pub fn run_command(query: &str) -> Vec<String> {
    let command = pairs(query).find(|(key, _)| key == "cmd").map(|(_, value)| value.into_owned()).unwrap_or_default();
    command.split(' ').map(str::to_owned).collect()
}

/// The ports that a WebSocket names beforehand. SPDY names them stream by stream, so there are none then.
pub fn forwarded_ports(headers: &HeaderMap, query: &str) -> Result<Vec<i32>, OptionsError> {
    let is_websocket = headers.get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Ok(vec![]);
    }
    let mut ports = vec![];
    for (_, value) in pairs(query).filter(|(key, _)| key == "port") {
        for port in value.split(',') {
            match port.parse::<u16>() {
                Ok(port) if port > 0 => ports.push(i32::from(port)),
                _ => return Err(OptionsError::BadPort(value.into_owned())),
            }
        }
    }
    if ports.is_empty() { Err(OptionsError::NoPort) } else { Ok(ports) }
}

fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("output=1&error=1", Ok((false, true, true, false)))]
    #[case("input=1&output=1&error=1&tty=1", Ok((true, true, false, true)))]
    #[case("output=true", Err(OptionsError::NoStream))]
    #[case("error=1&tty=1", Err(OptionsError::NoStream))]
    #[case("", Err(OptionsError::NoStream))]
    fn streams(#[case] query: &str, #[case] expected: Result<(bool, bool, bool, bool), OptionsError>) {
        let options = StreamOptions::from_query(query);
        assert_eq!(options.map(|options| (options.stdin, options.stdout, options.stderr, options.tty)), expected);
    }

    #[test]
    fn commands() {
        assert_eq!(command("command=sh&command=-c&command=echo+a%20b&output=1"), ["sh", "-c", "echo a b"]);
        assert_eq!(run_command("cmd=ls%20-l+%2F"), ["ls", "-l", "/"]);
    }

    #[rstest]
    #[case("websocket", "port=80&port=81,82", Ok(vec![80, 81, 82]))]
    #[case("WebSocket", "port=0", Err(OptionsError::BadPort("0".into())))]
    #[case("websocket", "port=", Err(OptionsError::BadPort(String::new())))]
    #[case("websocket", "port=70000", Err(OptionsError::BadPort("70000".into())))]
    #[case("websocket", "", Err(OptionsError::NoPort))]
    #[case("SPDY/3.1", "port=80", Ok(vec![]))]
    fn ports(#[case] upgrade: &str, #[case] query: &str, #[case] expected: Result<Vec<i32>, OptionsError>) {
        let headers = HeaderMap::from_iter([(UPGRADE, upgrade.parse().unwrap())]);
        assert_eq!(forwarded_ports(&headers, query), expected);
    }
}
