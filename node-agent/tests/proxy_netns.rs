//! The proxy's rules with real packets: the kernel's nftables and connection tracking, in network namespaces that belong to
//! this process alone and end with it.
//!
//! They need root, `nft` and `ip`; without one of them they fail and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail like tests")]

#[path = "proxy_netns/lab.rs"]
mod lab;
#[path = "proxy_netns/tenant.rs"]
mod tenant;

use lab::{Lab, Links, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::Duration;
use tenant::{service, table};

/// The name of the server that answered.
fn server(answer: &str) -> &str {
    answer.split(' ').next().unwrap()
}

/// The client's address as the server saw it.
fn client(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

fn refused(result: &std::io::Result<String>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn silent(result: &std::io::Result<String>) -> bool {
    result.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock))
}

/// The host's own kube-proxy, as far as it matters: the same address, translated for everybody at −100.
fn host_service(lab: &Lab, endpoint: &Pod) {
    lab.nft(&format!(
        "table ip kube-proxy {{\n chain nat-prerouting {{\n type nat hook prerouting priority -100;\n \
         ip daddr {{ 10.96.0.10, 10.96.0.99 }} tcp dport 80 dnat to {0}:80\n \
         ip daddr {{ 10.96.0.10, 10.96.0.99 }} udp dport 53 dnat to {0}:53\n }}\n }}\n",
        endpoint.address
    ));
}

#[test]
fn tenants_and_host_may_use_the_same_addresses() {
    Lab::run(Links::Routed, |lab| {
        let [a, b, host] = [2, 3, 4].map(|last| lab.pod(last));
        let [server_a, server_b, server_host] = [12, 13, 14].map(|last| lab.pod(last));
        for (pod, name) in [(&server_a, "a"), (&server_b, "b"), (&server_host, "host")] {
            pod.serve_tcp(80, name);
            pod.serve_udp(53, name);
        }
        host_service(lab, &server_host);
        let proxy = lab.proxy();
        for (tenant, pods, server) in [("a", [&a, &server_a], &server_a), ("b", [&b, &server_b], &server_b)] {
            proxy.tenant(tenant, &pods);
            proxy.services(
                tenant,
                &table(&[
                    service("10.96.0.10", "TCP", 80, &[&format!("{}:80", server.address)]),
                    service("10.96.0.10", "UDP", 53, &[&format!("{}:53", server.address)]),
                ]),
            );
        }
        proxy.settle();
        for _ in 0..5 {
            for (pod, name) in [(&a, "a"), (&b, "b"), (&host, "host")] {
                let answer = pod.tcp("10.96.0.10:80").unwrap();
                assert_eq!(server(&answer), name, "{answer}");
                assert_eq!(client(&answer), pod.address.to_string(), "sources are preserved");
                assert_eq!(server(&pod.udp("10.96.0.10:53").unwrap()), name);
            }
        }
    });
}

#[test]
fn addresses_without_endpoints_are_refused_or_dropped_and_never_reach_the_host() {
    for links in [Links::Routed, Links::Bridge { calls_netfilter: true }, Links::Bridge { calls_netfilter: false }] {
        Lab::run(links, move |lab| {
            let [pod, here, far, host, other] = [2, 12, 13, 14, 15].map(|last| lab.pod(last));
            for server in [&here, &far, &host] {
                server.serve_tcp(80, "server");
                server.serve_udp(53, "server");
            }
            host_service(lab, &host);
            let proxy = lab.proxy();
            proxy.tenant("a", &[&pod]);
            proxy.services(
                "a",
                &table(&[
                    service("10.96.0.10", "TCP", 80, &[]),
                    service("10.96.0.10", "UDP", 53, &[]),
                    service("10.96.0.11", "TCP", 80, &[&format!("{}:80", far.address)]).elsewhere().local_only(),
                    service("10.96.0.12", "TCP", 80, &[&format!("{}:80", here.address)]),
                ]),
            );
            proxy.settle();
            assert!(refused(&pod.tcp("10.96.0.10:80")), "no endpoints");
            assert!(refused(&pod.udp("10.96.0.10:53")), "no endpoints");
            assert!(refused(&pod.tcp("10.96.0.12:81")), "no such port");
            assert!(refused(&pod.udp("10.96.0.12:80")), "no such port over UDP");
            assert!(pod.tcp("10.96.0.12:80").is_ok());
            assert!(silent(&pod.tcp("10.96.0.11:80")), "only endpoints that the policy forbids");
            assert!(silent(&pod.tcp("10.96.0.99:80")), "nobody's in the tenant, a Service of the host");
            assert!(silent(&pod.udp("10.96.0.99:53")), "nobody's in the tenant, a Service of the host");
            // Where replies are hidden, they are hidden from the host's kube-proxy too.
            if !matches!(links, Links::Bridge { calls_netfilter: false }) {
                assert!(other.tcp("10.96.0.99:80").is_ok(), "the host's own pods still reach it");
            }
        });
    }
}

#[test]
fn a_tenant_whose_services_are_not_known_is_closed() {
    Lab::run(Links::Routed, |lab| {
        let [pod, host] = [2, 14].map(|last| lab.pod(last));
        host.serve_tcp(80, "host");
        host_service(lab, &host);
        let proxy = lab.proxy();
        assert!(pod.tcp("10.96.0.10:80").is_ok());
        proxy.tenant("a", &[&pod]);
        proxy.settle();
        assert!(silent(&pod.tcp("10.96.0.10:80")));
        assert!(pod.tcp(&format!("{}:80", host.address)).is_ok(), "what is no Service address is none of the proxy's business");
    });
}

#[test]
fn connections_spread_over_all_endpoints() {
    Lab::run(Links::Routed, |lab| {
        let pod = lab.pod(2);
        let servers: Vec<Pod> = (12..17).map(|last| lab.pod(last)).collect();
        for server in &servers {
            server.serve_tcp(8080, &server.address.to_string());
            server.serve_udp(53, &server.address.to_string());
        }
        let endpoints = |port: u16| servers.iter().map(|server| format!("{}:{port}", server.address)).collect::<Vec<_>>();
        let (tcp, udp) = (endpoints(8080), endpoints(53));
        let refs = |list: &'static [String]| list.iter().map(String::as_str).collect::<Vec<_>>();
        let (tcp, udp) = (refs(tcp.leak()), refs(udp.leak()));
        let proxy = lab.proxy();
        proxy.tenant("a", &[&pod]);
        proxy.services("a", &table(&[service("10.96.0.1", "TCP", 80, &tcp), service("10.96.0.1", "UDP", 53, &udp)]));
        proxy.settle();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..250 {
            *counts.entry(server(&pod.tcp("10.96.0.1:80").unwrap()).to_owned()).or_default() += 1;
            *counts.entry(format!("udp {}", server(&pod.udp("10.96.0.1:53").unwrap()))).or_default() += 1;
        }
        assert_eq!(counts.len(), 10, "{counts:?}");
        // 50 expected each, standard deviation 6.3.
        assert!(counts.values().all(|count| (20..=80).contains(count)), "{counts:?}");
    });
}

#[test]
fn a_pod_reaches_itself_and_its_neighbours_through_services() {
    for links in [Links::Routed, Links::Bridge { calls_netfilter: true }, Links::Bridge { calls_netfilter: false }] {
        Lab::run(links, move |lab| {
            let [pod, neighbour] = [2, 12].map(|last| lab.pod(last));
            for server in [&pod, &neighbour] {
                server.serve_tcp(80, &server.address.to_string());
                server.serve_udp(53, &server.address.to_string());
            }
            let proxy = lab.proxy();
            proxy.tenant("a", &[&pod, &neighbour]);
            let to = |pod: &Pod, port: u16| format!("{}:{port}", pod.address);
            proxy.services(
                "a",
                &table(&[
                    service("10.96.0.1", "TCP", 80, &[&to(&pod, 80)]),
                    service("10.96.0.1", "UDP", 53, &[&to(&pod, 53)]),
                    service("10.96.0.2", "TCP", 80, &[&to(&neighbour, 80)]),
                    service("10.96.0.2", "UDP", 53, &[&to(&neighbour, 53)]),
                ]),
            );
            proxy.settle();
            assert_eq!(server(&pod.tcp("10.96.0.1:80").unwrap()), pod.address.to_string(), "{links:?}");
            assert_eq!(server(&pod.udp("10.96.0.1:53").unwrap()), pod.address.to_string(), "{links:?}");
            let hidden = matches!(links, Links::Bridge { calls_netfilter: false });
            for answer in [pod.tcp("10.96.0.2:80").unwrap(), pod.udp("10.96.0.2:53").unwrap()] {
                assert_eq!(server(&answer), neighbour.address.to_string(), "{links:?}");
                let seen = if hidden { Lab::gateway() } else { pod.address };
                assert_eq!(client(&answer), seen.to_string(), "{links:?}");
            }
        });
    }
}

#[test]
fn ipv6_has_a_table_of_its_own() {
    Lab::run(Links::Routed, |lab| {
        let [pod, backend] = [2, 12].map(|last| lab.pod(last));
        backend.serve_tcp(80, "six");
        backend.serve_udp(53, "six");
        let proxy = lab.proxy();
        proxy.tenant_with("a", &["10.96.0.0/16", "fd00:96::/112"], &[&pod, &backend]);
        proxy.services(
            "a",
            &table(&[
                service("fd00:96::1", "TCP", 80, &[&format!("[{}]:80", backend.address6)]),
                service("fd00:96::1", "UDP", 53, &[&format!("[{}]:53", backend.address6)]),
                service("fd00:96::2", "TCP", 80, &[&format!("[{}]:80", pod.address6)]),
                service("fd00:96::3", "TCP", 80, &[]),
            ]),
        );
        pod.serve_tcp(80, "self");
        proxy.settle();
        assert_eq!(server(&pod.tcp("[fd00:96::1]:80").unwrap()), "six");
        assert_eq!(server(&pod.udp("[fd00:96::1]:53").unwrap()), "six");
        assert_eq!(server(&pod.tcp("[fd00:96::2]:80").unwrap()), "self");
        assert!(refused(&pod.tcp("[fd00:96::3]:80")));
        assert!(silent(&pod.tcp("[fd00:96::9]:80")));
    });
}

#[test]
fn a_connection_outlives_the_agent_and_its_endpoint() {
    Lab::run(Links::Routed, |lab| {
        let [pod, old, new] = [2, 12, 13].map(|last| lab.pod(last));
        old.serve_tcp(80, "old");
        new.serve_tcp(80, "new");
        let only = |server: &Pod| table(&[service("10.96.0.1", "TCP", 80, &[&format!("{}:80", server.address)])]);
        let proxy = lab.proxy();
        proxy.tenant("a", &[&pod]);
        proxy.services("a", &only(&old));
        proxy.settle();
        let mut open = pod.open("10.96.0.1:80").unwrap();
        assert_eq!(server(&open.say().unwrap()), "old");

        proxy.services("a", &only(&new));
        proxy.settle();
        assert_eq!(server(&open.say().unwrap()), "old", "a lost endpoint ends no connection");
        assert_eq!(server(&pod.tcp("10.96.0.1:80").unwrap()), "new");

        proxy.stop();
        assert_eq!(server(&open.say().unwrap()), "old", "without an agent");
        assert_eq!(server(&pod.tcp("10.96.0.1:80").unwrap()), "new", "new connections without an agent");

        let proxy = lab.proxy();
        proxy.tenant("a", &[&pod]);
        proxy.settle();
        assert_eq!(server(&open.say().unwrap()), "old", "with an agent that knows no Services yet");
        assert_eq!(server(&pod.tcp("10.96.0.1:80").unwrap()), "new", "inherited rules serve meanwhile");
        proxy.services("a", &only(&old));
        proxy.settle();
        assert_eq!(server(&pod.tcp("10.96.0.1:80").unwrap()), "old", "the tenant is known again");
        assert_eq!(server(&open.say().unwrap()), "old");
    });
}

#[test]
fn an_agent_takes_over_the_rules_of_the_previous_one() {
    Lab::run(Links::Routed, |lab| {
        let [a, gone, b, backend] = [2, 3, 4, 12].map(|last| lab.pod(last));
        backend.serve_tcp(80, "server");
        let services = table(&[service("10.96.0.1", "TCP", 80, &[&format!("{}:80", backend.address)])]);
        let proxy = lab.proxy();
        for (tenant, pods) in [("a", vec![&a, &gone]), ("b", vec![&b]), ("c", vec![])] {
            proxy.tenant(tenant, &pods);
            proxy.services(tenant, &services);
        }
        proxy.settle();
        proxy.stop();

        let proxy = lab.proxy();
        proxy.tenant("a", &[&a]);
        proxy.services("a", &services);
        proxy.settle();
        assert!(a.tcp("10.96.0.1:80").is_ok());
        assert!(b.tcp("10.96.0.1:80").is_ok(), "a tenant whose apiserver is down is served on");
        assert!(!lab.listing().contains(&format!("{} : goto", gone.address)), "a pod that ended while no agent was there");

        proxy.keep_only(&["a", "b"]);
        proxy.settle();
        let listing = lab.listing();
        assert!(b.tcp("10.96.0.1:80").is_ok());
        assert!(listing.contains("tenant-b") && !listing.contains("tenant-c"), "{listing}");
        proxy.keep_only(&["a"]);
        proxy.settle();
        assert!(silent(&b.tcp("10.96.0.1:80")));
        assert!(!lab.listing().contains("-b"), "{}", lab.listing());
    });
}

#[test]
fn rules_that_another_program_removed_are_restored() {
    Lab::run(Links::Routed, |lab| {
        let [pod, backend] = [2, 12].map(|last| lab.pod(last));
        backend.serve_tcp(80, "server");
        let to = format!("{}:80", backend.address);
        let proxy = lab.proxy();
        proxy.tenant("a", &[&pod]);
        proxy.services("a", &table(&[service("10.96.0.1", "TCP", 80, &[&to])]));
        proxy.settle();
        lab.nft("flush ruleset\n");
        proxy.services("a", &table(&[service("10.96.0.1", "TCP", 80, &[&to]), service("10.96.0.2", "TCP", 80, &[&to])]));
        proxy.settle();
        assert!(pod.tcp("10.96.0.1:80").is_ok());
        assert!(pod.tcp("10.96.0.2:80").is_ok());
    });
}

#[test]
fn udp_flows_leave_an_endpoint_that_is_removed() {
    Lab::run(Links::Routed, |lab| {
        let [pod, host, old, new] = [2, 3, 12, 13].map(|last| lab.pod(last));
        old.serve_udp(53, "old");
        new.serve_udp(53, "new");
        host_service(lab, &old);
        let only = |server: &Pod| table(&[service("10.96.0.10", "UDP", 53, &[&format!("{}:53", server.address)])]);
        let proxy = lab.proxy();
        proxy.tenant("a", &[&pod]);
        proxy.services("a", &only(&old));
        proxy.settle();
        let mut flow = pod.open_udp("10.96.0.10:53").unwrap();
        let mut hosts = host.open_udp("10.96.0.10:53").unwrap();
        assert_eq!(server(&flow.say().unwrap()), "old");
        assert_eq!(server(&hosts.say().unwrap()), "old");
        proxy.services("a", &only(&new));
        proxy.settle();
        proxy.until(|| flow.say().is_ok_and(|answer| server(&answer) == "new"));
        assert_eq!(server(&hosts.say().unwrap()), "old", "the host's flow to the same address is nobody's business");
        proxy.services("a", &table(&[service("10.96.0.10", "UDP", 53, &[])]));
        proxy.settle();
        proxy.until(|| flow.say().is_err());
    });
}

#[test]
fn flows_from_before_a_pod_had_rules_follow_its_rules_afterwards() {
    Lab::run(Links::Routed, |lab| {
        let [pod, host, backend] = [2, 12, 13].map(|last| lab.pod(last));
        host.serve_udp(53, "host");
        host.serve_tcp(80, "host");
        backend.serve_udp(53, "tenant");
        host_service(lab, &host);
        let proxy = lab.proxy();
        proxy.tenant("a", &[]);
        proxy.services("a", &table(&[service("10.96.0.10", "UDP", 53, &[&format!("{}:53", backend.address)])]));
        proxy.settle();
        let mut flow = pod.open_udp("10.96.0.10:53").unwrap();
        let mut connection = pod.open("10.96.0.10:80").unwrap();
        assert_eq!(server(&flow.say().unwrap()), "host", "too early");
        assert!(connection.say().is_ok());
        proxy.tenant("a", &[&pod]);
        proxy.settle();
        proxy.until(|| flow.say().is_ok_and(|answer| server(&answer) == "tenant"));
        proxy.until(|| connection.say().is_err());
    });
}

#[test]
fn a_pod_inherits_no_connections_of_the_previous_pod_at_its_address() {
    Lab::run(Links::Routed, |lab| {
        let [pod, server_a, server_b] = [2, 12, 13].map(|last| lab.pod(last));
        server_a.serve_tcp(80, "a");
        server_b.serve_tcp(80, "b");
        let proxy = lab.proxy();
        for (tenant, pods, server) in [("a", vec![&pod], &server_a), ("b", vec![], &server_b)] {
            proxy.tenant(tenant, &pods);
            proxy.services(tenant, &table(&[service("10.96.0.10", "TCP", 80, &[&format!("{}:80", server.address)])]));
        }
        proxy.settle();
        let mut connection = pod.open("10.96.0.10:80").unwrap();
        assert_eq!(server(&connection.say().unwrap()), "a");
        // The pod of a is gone, and its address is a pod's of b.
        proxy.tenant("b", &[&pod]);
        proxy.tenant("a", &[]);
        proxy.settle();
        proxy.until(|| connection.say().is_err());
        assert_eq!(server(&pod.tcp("10.96.0.10:80").unwrap()), "b");
    });
}

#[test]
fn a_client_with_session_affinity_stays_with_its_endpoint() {
    Lab::run(Links::Routed, |lab| {
        let pods: Vec<Pod> = (2..12).map(|last| lab.pod(last)).collect();
        let servers: Vec<Pod> = (12..16).map(|last| lab.pod(last)).collect();
        for server in &servers {
            server.serve_tcp(80, &server.address.to_string());
            server.serve_udp(53, &server.address.to_string());
        }
        let of = |servers: &[Pod]| {
            let to = |port: u16| servers.iter().map(|server| format!("{}:{port}", server.address)).collect::<Vec<_>>();
            let (tcp, udp) = (to(80), to(53));
            let (tcp, udp): (Vec<_>, Vec<_>) = (tcp.iter().map(String::as_str).collect(), udp.iter().map(String::as_str).collect());
            table(&[
                service("10.96.0.1", "TCP", 80, &tcp).sticky(2),
                service("10.96.0.1", "UDP", 53, &udp).sticky(600),
                service("10.96.0.2", "TCP", 80, &tcp),
            ])
        };
        let proxy = lab.proxy();
        proxy.tenant("a", &pods.iter().collect::<Vec<_>>());
        proxy.services("a", &of(&servers));
        proxy.settle();

        let kept = |pod: &Pod| {
            let first = server(&pod.tcp("10.96.0.1:80").unwrap()).to_owned();
            for _ in 0..12 {
                assert_eq!(server(&pod.tcp("10.96.0.1:80").unwrap()), first);
            }
            first
        };
        let by: BTreeSet<String> = pods.iter().map(kept).collect();
        assert!(by.len() > 1, "ten clients at one of four endpoints: {by:?}");
        let loose: BTreeSet<String> = (0..40).map(|_| server(&pods[0].tcp("10.96.0.2:80").unwrap()).to_owned()).collect();
        assert_eq!(loose.len(), 4, "the other Service keeps nobody");

        let udp = |pod: &Pod| server(&pod.udp("10.96.0.1:53").unwrap()).to_owned();
        let before = udp(&pods[0]);
        for _ in 0..10 {
            assert_eq!(udp(&pods[0]), before);
        }
        // Through a restart.
        proxy.stop();
        let proxy = lab.proxy();
        proxy.tenant("a", &pods.iter().collect::<Vec<_>>());
        proxy.services("a", &of(&servers));
        proxy.settle();
        for _ in 0..10 {
            assert_eq!(udp(&pods[0]), before, "an agent's restart forgets nobody");
        }
        // The endpoint leaves; the others keep their clients.
        let others: Vec<String> = pods.iter().map(udp).collect();
        let left: Vec<Pod> = servers.iter().filter(|server| server.address.to_string() != before).cloned().collect();
        proxy.services("a", &of(&left));
        proxy.settle();
        for (pod, by) in pods.iter().zip(&others) {
            let now = udp(pod);
            assert_ne!(now, before);
            assert!(*by == before || *by == now, "{by} {now}");
            assert_eq!(udp(pod), now);
        }
        // The time runs out.
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            seen.insert(kept(&pods[1]));
            std::thread::sleep(Duration::from_millis(2_300));
            if seen.len() > 1 {
                break;
            }
        }
        assert!(seen.len() > 1, "2 s of affinity have passed 8 times");
    });
}
