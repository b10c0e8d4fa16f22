//! Which changes of a status are worth an Event. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use nestling_crds::v1alpha1::conditions;

/// An Event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub is_warning: bool,
    pub reason: String,
    pub note: String,
}

/// A condition whose status or reason changed is news, but for those that repeat others'.
pub fn news(before: &[Condition], after: &[Condition]) -> Vec<News> {
    let changed = |condition: &&Condition| {
        let old = before.iter().find(|old| old.type_ == condition.type_);
        old.is_none_or(|old| (&old.status, &old.reason) != (&condition.status, &condition.reason))
    };
    after.iter().filter(changed).filter_map(of).collect()
}

fn of(condition: &Condition) -> Option<News> {
    let Condition { type_, status, reason, message, .. } = condition;
    match (type_.as_str(), status.as_str()) {
        // Ready=False and Progressing say what the condition behind them says.
        (conditions::PROGRESSING, _) | (_, "Unknown") | (conditions::READY, "False") => None,
        (conditions::VALID | conditions::DEGRADED, _) if !is_trouble(condition) => None,
        (conditions::READY, _) => Some(News { is_warning: false, reason: "Ready".into(), note: "the cluster is ready".into() }),
        (_, "True") if !is_trouble(condition) => Some(News { is_warning: false, reason: type_.clone(), note: message.clone() }),
        _ => Some(News { is_warning: is_trouble(condition), reason: reason.clone(), note: format!("{type_}: {message}") }),
    }
}

/// What does not pass by itself.
fn is_trouble(condition: &Condition) -> bool {
    let waits = condition.reason.starts_with("WaitingFor");
    match (condition.type_.as_str(), condition.status.as_str()) {
        (conditions::DEGRADED, status) => status == "True",
        (_, "False") => !waits,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::{Verdict, condition};
    use jiff::Timestamp;

    fn all(verdicts: &[(&str, Verdict)]) -> Vec<Condition> {
        verdicts.iter().map(|(type_, verdict)| condition(&[], type_, verdict, Some(1), Timestamp::UNIX_EPOCH)).collect()
    }

    #[test]
    fn what_is_waited_for_and_what_is_wrong_is_told_once() {
        let waiting = all(&[
            (conditions::VALID, Verdict::yes("Accepted", "")),
            (conditions::API_SERVER_READY, Verdict::no("WaitingForPod", "pod a is starting")),
            (conditions::NODES_READY, Verdict::unknown("WaitingForAPIServer", "")),
            (conditions::READY, Verdict::no("WaitingForPod", "APIServerReady: pod a is starting")),
            (conditions::PROGRESSING, Verdict::yes("WaitingForPod", "")),
            (conditions::DEGRADED, Verdict::no("Starting", "")),
        ]);
        let first = news(&[], &waiting);
        assert_eq!(first, [News { is_warning: false, reason: "WaitingForPod".into(), note: "APIServerReady: pod a is starting".into() }]);
        assert!(news(&waiting, &waiting).is_empty());

        let stuck = all(&[(conditions::API_SERVER_READY, Verdict::no("ImagePullBackOff", "no such image"))]);
        let told = news(&waiting, &stuck);
        assert_eq!(told, [News { is_warning: true, reason: "ImagePullBackOff".into(), note: "APIServerReady: no such image".into() }]);

        let up =
            all(&[(conditions::API_SERVER_READY, Verdict::yes("Available", "1 of 1")), (conditions::READY, Verdict::yes("Ready", ""))]);
        let reasons: Vec<_> = news(&stuck, &up).into_iter().map(|news| (news.is_warning, news.reason)).collect();
        assert_eq!(reasons, [(false, "APIServerReady".to_owned()), (false, "Ready".to_owned())]);
    }

    #[test]
    fn an_invalid_spec_and_a_lost_part_are_warnings() {
        let wrong =
            all(&[(conditions::VALID, Verdict::no("Invalid", "spec.x: no")), (conditions::DEGRADED, Verdict::yes("ApplyFailed", "why"))]);
        let reasons: Vec<_> = news(&[], &wrong).into_iter().map(|news| (news.is_warning, news.reason)).collect();
        assert_eq!(reasons, [(true, "Invalid".to_owned()), (true, "ApplyFailed".to_owned())]);
    }
}
