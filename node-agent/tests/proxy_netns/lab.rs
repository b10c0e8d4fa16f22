//! A node with pods: a network namespace for the node, one per pod, and veth pairs between them. They exist only through
//! threads and open files of this process, so they are gone when it is.

use nestling_crds::names::TenantUid;
use nestling_node_agent::proxy::table::ServiceTable;
use nestling_node_agent::proxy::{Proxy, ProxyConfig};
use nestling_runtime::metrics::Metrics;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// For one connection or answer. Longer than a retransmitted SYN.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// For something that happens in the background.
const EVENTUALLY: Duration = Duration::from_secs(10);

/// How pods are connected to the node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Links {
    /// A point-to-point link each.
    Routed,
    /// Ports of one bridge, as the CNI plugin `bridge` makes them.
    Bridge { calls_netfilter: bool },
}

pub(crate) struct Lab {
    links: Links,
    runtime: Runtime,
    pods: RefCell<u32>,
}

#[derive(Clone)]
pub(crate) struct Pod {
    pub address: IpAddr,
    pub address6: IpAddr,
    namespace: Arc<File>,
}

pub(crate) struct Agent<'a> {
    lab: &'a Lab,
    proxy: Proxy,
    shutdown: CancellationToken,
}

#[allow(clippy::unused_self, reason = "what is done to the node is done by the thread that has the lab")]
impl Lab {
    /// Runs a test in a lab of its own.
    pub(crate) fn run(links: Links, test: impl FnOnce(&Lab) + Send + 'static) {
        assert!(nix::unistd::geteuid().is_root(), "rule tests make network namespaces and load nftables rules: run them as root");
        for program in ["nft", "ip"] {
            let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(found.is_ok_and(|status| status.success()), "rule tests need the program `{program}` in PATH");
        }
        let thread = std::thread::spawn(move || test(&Lab::new(links)));
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new(links: Links) -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("a network and a mount namespace");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
        without_waiting_for_ipv6();
        ip("link set lo up");
        sysctl("net/ipv4/ip_forward", "1");
        sysctl("net/ipv6/conf/all/forwarding", "1");
        // An address that nobody has leads out of the node, as on a real one, and no further.
        ip("link add out type bridge");
        ip("link set out up");
        ip("neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev out");
        ip("neigh add fe80::ff lladdr 02:00:00:00:00:01 dev out");
        ip("route add default via 192.0.2.1 dev out onlink");
        ip("-6 route add default via fe80::ff dev out onlink");
        if let Links::Bridge { calls_netfilter } = links {
            ip("link add cni0 type bridge");
            ip("addr add 10.244.0.1/24 dev cni0");
            ip("link set cni0 up");
            let call = "net/bridge/bridge-nf-call-iptables";
            if fs::exists(format!("/proc/sys/{call}")).unwrap() {
                sysctl(call, if calls_netfilter { "1" } else { "0" });
            } else {
                assert!(!calls_netfilter, "this kernel has no br_netfilter: load the module");
            }
        }
        // Of this thread, so that everything it starts is in the namespaces too.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { links, runtime, pods: RefCell::new(0) }
    }

    /// The node's address toward pods.
    pub(crate) fn gateway() -> IpAddr {
        Ipv4Addr::new(10, 244, 0, 1).into()
    }

    /// A pod with the addresses `10.244.0.<last>` and `fd00:244::<last>`.
    pub(crate) fn pod(&self, last: u8) -> Pod {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            without_waiting_for_ipv6();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let pod = Pod {
            address: Ipv4Addr::new(10, 244, 0, last).into(),
            address6: Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, last.into()).into(),
            namespace: Arc::new(namespace),
        };
        *self.pods.borrow_mut() += 1;
        let link = format!("pod{}", self.pods.borrow());
        let path = format!("/proc/{}/fd/{}", std::process::id(), pod.namespace.as_raw_fd());
        ip(&format!("link add {link} type veth peer name eth0 netns {path}"));
        ip(&format!("link set {link} up"));
        match self.links {
            Links::Routed => {
                ip(&format!("addr add 10.244.0.1/32 dev {link}"));
                ip(&format!("addr add fd00:244::1/128 dev {link} nodad"));
                ip(&format!("route add {} dev {link}", pod.address));
                ip(&format!("-6 route add {} dev {link}", pod.address6));
            }
            Links::Bridge { .. } => {
                ip(&format!("link set {link} master cni0"));
                fs::write(format!("/sys/class/net/{link}/brport/hairpin_mode"), "1").unwrap();
            }
        }
        let routed = matches!(self.links, Links::Routed);
        pod.inside(|| {
            ip("link set lo up");
            ip("link set eth0 up");
            if routed {
                ip(&format!("addr add {}/32 dev eth0", pod.address));
                ip(&format!("addr add {}/128 dev eth0 nodad", pod.address6));
                ip("route add 10.244.0.1 dev eth0");
                ip("-6 route add fd00:244::1 dev eth0");
                ip("-6 route add default via fd00:244::1");
            } else {
                ip(&format!("addr add {}/24 dev eth0", pod.address));
            }
            ip("route add default via 10.244.0.1");
        });
        pod
    }

    /// An agent's proxy on this node.
    pub(crate) fn proxy(&self) -> Agent<'_> {
        let shutdown = CancellationToken::new();
        let config = ProxyConfig::kernel(Metrics::default(), None);
        let _runtime = self.runtime.enter();
        Agent { lab: self, proxy: Proxy::start(config, shutdown.clone()), shutdown }
    }

    /// Applies commands, as somebody else on the node would.
    pub(crate) fn nft(&self, commands: &str) {
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{commands}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn listing(&self) -> String {
        output(Command::new("nft").args(["list", "table", "ip", "nestling"]))
    }
}

impl Agent<'_> {
    /// The tenant is served, with these pods.
    pub(crate) fn tenant(&self, name: &str, pods: &[&Pod]) {
        self.tenant_with(name, &["10.96.0.0/16"], pods);
    }

    pub(crate) fn tenant_with(&self, name: &str, ranges: &[&str], pods: &[&Pod]) {
        let uid = TenantUid::new(name);
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| [pod.address, pod.address6]).collect();
        self.proxy.expect(&uid, &ranges);
        self.proxy.set_sources(&uid, &addresses);
    }

    pub(crate) fn services(&self, name: &str, table: &Arc<ServiceTable>) {
        self.proxy.set_services(&TenantUid::new(name), table);
    }

    pub(crate) fn keep_only(&self, names: &[&str]) {
        self.proxy.keep_only(names.iter().map(|name| TenantUid::new(*name)).collect());
    }

    pub(crate) fn settle(&self) {
        self.lab.runtime.block_on(async {
            tokio::time::timeout(EVENTUALLY, self.proxy.settled()).await.expect("rules are applied");
        });
    }

    /// Lets the proxy work until it is so.
    pub(crate) fn until(&self, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < EVENTUALLY, "it never came to be");
            self.lab.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        }
    }

    /// As an agent ends: its rules stay.
    pub(crate) fn stop(self) {
        self.shutdown.cancel();
        self.lab.runtime.block_on(self.proxy.stopped());
    }
}

impl Pod {
    /// Sockets and processes made in there are the pod's, wherever they are used.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// Answers each line with `<name> <client's address>`.
    pub(crate) fn serve_tcp(&self, port: u16, name: &str) {
        let listener = self.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        let name = name.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let answer = format!("{name} {}\n", stream.peer_addr().unwrap().ip().to_canonical());
                std::thread::spawn(move || {
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    lines.map_while(Result::ok).try_for_each(|_| (&stream).write_all(answer.as_bytes()))
                });
            }
        });
    }

    /// Answers each datagram with `<name> <client's address>`.
    pub(crate) fn serve_udp(&self, port: u16, name: &str) {
        let name = name.to_owned();
        // A socket per family: an answer from a wildcard socket of both would have the wrong source on some kernels.
        for address in [self.address, self.address6] {
            let Ok(socket) = self.inside(|| UdpSocket::bind((address, port))) else { continue };
            let name = name.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
                }
            });
        }
    }

    pub(crate) fn open(&self, to: &str) -> io::Result<Connection> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = self.inside(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { reader: BufReader::new(stream) })
    }

    /// One connection, one answer.
    pub(crate) fn tcp(&self, to: &str) -> io::Result<String> {
        self.open(to)?.say()
    }

    pub(crate) fn open_udp(&self, to: &str) -> io::Result<Flow> {
        let to: SocketAddr = to.parse().unwrap();
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.inside(|| {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            io::Result::Ok(socket)
        })?;
        socket.set_read_timeout(Some(PATIENCE / 3))?;
        Ok(Flow { socket })
    }

    /// One flow, one answer.
    pub(crate) fn udp(&self, to: &str) -> io::Result<String> {
        self.open_udp(to)?.say()
    }
}

pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn say(&mut self) -> io::Result<String> {
        self.reader.get_mut().write_all(b"hello\n")?;
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim().to_owned()),
        }
    }
}

pub(crate) struct Flow {
    socket: UdpSocket,
}

impl Flow {
    pub(crate) fn say(&mut self) -> io::Result<String> {
        self.socket.send(b"hello")?;
        let mut buffer = [0; 64];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

fn ip(arguments: &str) {
    output(Command::new("ip").args(arguments.split(' ')));
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Addresses are usable at once: no look for another owner of theirs.
fn without_waiting_for_ipv6() {
    sysctl("net/ipv6/conf/all/accept_dad", "0");
    sysctl("net/ipv6/conf/default/accept_dad", "0");
}

/// Of the thread's network namespace.
fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|error| panic!("{name}: {error}"));
}
