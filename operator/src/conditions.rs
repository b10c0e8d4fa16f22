//! Conditions, as Kubernetes means them: a transition time that moves only when the status does, and the generation that
//! was looked at.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message the API takes (metav1.Condition).
const MAX_MESSAGE: usize = 32_768;

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None` is `Unknown`.
    pub status: Option<bool>,
    /// One CamelCase word.
    pub reason: String,
    pub message: String,
}

impl Verdict {
    pub fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self { status: Some(true), reason: reason.into(), message: message.into() }
    }

    pub fn no(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: Some(false), reason: reason.into(), message: message.into() }
    }

    pub fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self { status: None, reason: reason.into(), message: message.into() }
    }

    pub fn is_true(&self) -> bool {
        self.status == Some(true)
    }
}

/// The condition `type_` with this verdict; its transition time is that of `previous` unless the status changed.
pub fn condition(previous: &[Condition], type_: &str, verdict: &Verdict, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = match verdict.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let unchanged = previous.iter().find(|old| old.type_ == type_ && old.status == status);
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: verdict.reason.clone(),
        message: cut(&verdict.message, MAX_MESSAGE).into(),
        observed_generation: generation,
        last_transition_time: unchanged.map_or_else(|| Time(to_second(now)), |old| old.last_transition_time.clone()),
    }
}

/// The API keeps whole seconds: anything finer would look like a change when it is read back.
fn to_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// At most `limit` bytes of `text`, whole characters.
pub fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let first = condition(&[], "Ready", &Verdict::no("WaitingForPod", "a"), Some(1), at(10));
        assert_eq!(first.last_transition_time.0, at(10));
        let same = condition(std::slice::from_ref(&first), "Ready", &Verdict::no("ImagePullBackOff", "b"), Some(2), at(20));
        assert_eq!((same.last_transition_time.0, same.reason.as_str(), same.observed_generation), (at(10), "ImagePullBackOff", Some(2)));
        let ready = condition(&[same], "Ready", &Verdict::yes("Ready", ""), Some(2), at(30));
        assert_eq!((ready.last_transition_time.0, ready.status.as_str()), (at(30), "True"));
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("a", 5), "a");
    }
}
