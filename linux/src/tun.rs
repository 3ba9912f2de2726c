//! The TUN device: open, size, bring up, address.
//!
//! A device opened here is never persistent: when its last reader closes it, or dies, it vanishes with its
//! routes, so that the next-best route takes over. Nothing here reads or writes packets; the data path does
//! that on the file descriptor.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use ipnet::IpNet;
use rtnetlink::LinkUnspec;
use rustix::net::AddressFamily;

use crate::link::Links;
use crate::netdevice;
use crate::netns::Netns;

const DEVICE: &str = "/dev/net/tun";
/// Length of the header in front of each packet when [`TunOptions::offload`] is granted
/// (`struct virtio_net_hdr`).
pub const VNET_HEADER_LEN: usize = 10;

/// Packets that wait for the reader: enough for some milliseconds of small ones.
const QUEUE_LEN: u32 = 1000;

/// What can go wrong with a TUN device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunError {
    /// The kernel has no TUN driver, or the device node is not there.
    #[error("{DEVICE} is missing: load the kernel's tun module (CONFIG_TUN) and mount {DEVICE} into the pod")]
    Missing,
    /// The device node or the device may not be used.
    #[error(
        "no permission to open TUN device {name}: it needs CAP_NET_ADMIN in this network namespace, and {DEVICE} must be readable and writable (mode 0666 for use without root)"
    )]
    Denied {
        /// The interface asked for.
        name: String,
    },
    /// Another process holds the name.
    #[error(
        "interface name {name} is taken by another process or device: stop it or pick another name (ip link show {name})"
    )]
    Taken {
        /// The interface asked for.
        name: String,
    },
    /// Not a name that an interface can have.
    #[error(
        "{name:?} cannot be an interface name: use 1 to 15 letters, digits, '-', '_' or '.', and no '-' to begin with"
    )]
    BadName {
        /// The interface asked for.
        name: String,
    },
    /// A system call failed for another reason.
    #[error("cannot {action} on interface {name}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Netlink refused.
    #[error(transparent)]
    Link(#[from] crate::Error),
}

/// How to open a TUN device.
#[derive(Clone, Debug)]
pub struct TunOptions {
    /// Interface name.
    pub name: String,
    /// Interface MTU in bytes.
    pub mtu: u32,
    /// Ask for the virtio header and as much segmentation offload as the kernel has.
    pub offload: bool,
    /// Reads that would block answer `EAGAIN`.
    pub nonblocking: bool,
}

/// Which offloads the kernel granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Each packet is preceded by [`VNET_HEADER_LEN`] bytes of virtio header.
    pub vnet_header: bool,
    /// Checksums may be left to us, and TCP super packets may be read and written.
    pub tso: bool,
    /// UDP super packets may be read and written (Linux 6.2).
    pub uso: bool,
}

impl Offload {
    /// Length of the header in front of each packet.
    pub fn header_len(self) -> usize {
        if self.vnet_header { VNET_HEADER_LEN } else { 0 }
    }
}

/// An open TUN device. It vanishes when the last clone of its descriptor is closed.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    offload: Offload,
}

impl Tun {
    /// Opens (creates) a device, sets its MTU and brings it up.
    pub fn open(options: &TunOptions) -> Result<Tun, TunError> {
        let tun = Self::attach(options, 0)?;
        tun.configure(options)?;
        set_up(&tun.name)?;
        Ok(tun)
    }

    /// Opens (creates) a device with several queues, sets its MTU, and brings it up if `up` says so. The
    /// kernel keeps each flow on one queue: the one that last wrote a packet of it, if there is one. A queue
    /// whose descriptor is closed gives its flows to the others; the device vanishes with the last.
    pub fn open_queues(options: &TunOptions, count: usize, up: bool) -> Result<Vec<Tun>, TunError> {
        let queues = (0..count.max(1))
            .map(|number| {
                let flags = match (count, number) {
                    (..=1, _) => 0,
                    // Else this would become a queue of another process's device.
                    (_, 0) => libc::IFF_MULTI_QUEUE | libc::IFF_TUN_EXCL,
                    _ => libc::IFF_MULTI_QUEUE,
                };
                Self::attach(options, flags)
            })
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(first) = queues.first() {
            first.configure(options)?;
            if up {
                set_up(&first.name)?;
            }
        }
        Ok(queues)
    }

    /// Makes the device or, with the flags for it, another queue of it.
    fn attach(options: &TunOptions, queue_flags: libc::c_int) -> Result<Tun, TunError> {
        let name = options.name.clone();
        let mut request = request(&name)?;
        let mut flags = libc::O_CLOEXEC;
        if options.nonblocking {
            flags |= libc::O_NONBLOCK;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(DEVICE)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::Missing,
                Some(libc::EACCES | libc::EPERM) => TunError::Denied { name: name.clone() },
                _ => TunError::Io {
                    action: "open /dev/net/tun",
                    name: name.clone(),
                    source,
                },
            })?;
        let fd = OwnedFd::from(file);

        let mut kind = libc::IFF_TUN | libc::IFF_NO_PI | queue_flags;
        if options.offload {
            kind |= libc::IFF_VNET_HDR;
        }
        request.ifr_ifru.ifru_flags = kind as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives on this stack frame.
        netdevice::answer(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request) }).map_err(
            |source| match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TunError::Denied { name: name.clone() },
                Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => TunError::Taken { name: name.clone() },
                _ => TunError::Io {
                    action: "create a TUN device",
                    name: name.clone(),
                    source,
                },
            },
        )?;
        let mut offload = Offload {
            vnet_header: options.offload,
            ..Offload::default()
        };
        if options.offload {
            let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
            let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
            if set_offload(&fd, tso | uso).is_ok() {
                (offload.tso, offload.uso) = (true, true);
            } else if set_offload(&fd, tso).is_ok() {
                offload.tso = true;
            }
        }
        Ok(Tun { fd, name, offload })
    }

    fn configure(&self, options: &TunOptions) -> Result<(), TunError> {
        self.set_mtu(options.mtu)?;
        self.set_queue_len()
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offloads in use.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The MTU as it is now, whatever the device is called by now and whichever network namespace it is in. An
    /// error where the device is gone.
    pub fn mtu(&self) -> Result<u32, TunError> {
        let read = || {
            let mut request = self.named()?;
            control(
                AddressFamily::INET,
                libc::SIOCGIFMTU,
                "read the MTU",
                &self.name,
                &mut request,
            )?;
            // SAFETY: SIOCGIFMTU has just filled this member of the union.
            let mtu = unsafe { request.ifr_ifru.ifru_mtu };
            Ok(mtu.max(0).cast_unsigned())
        };
        match self.namespace() {
            Some(namespace) => namespace.run(read)?,
            None => read(),
        }
    }

    /// A request about the device under the name that it has now.
    fn named(&self) -> Result<libc::ifreq, TunError> {
        let mut request = request(&self.name)?;
        // SAFETY: TUNGETIFF writes one ifreq, which lives on this stack frame.
        netdevice::answer(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNGETIFF, &mut request) })
            .map_err(|source| TunError::Io {
                action: "ask for the name",
                name: self.name.clone(),
                source,
            })?;
        Ok(request)
    }

    /// Where the device is; `None` if the kernel does not say: it does since Linux 5.2, to who may administer that
    /// namespace.
    fn namespace(&self) -> Option<Netns> {
        const TUNGETDEVNETNS: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(b'T', 227);
        // SAFETY: TUNGETDEVNETNS takes no argument, and returns a new descriptor or an error.
        let fd = unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNGETDEVNETNS as _) };
        // SAFETY: the descriptor is new, and nobody else's.
        (fd >= 0).then(|| Netns::from_fd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Changes the MTU. To be called in the device's network namespace.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), TunError> {
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
        control(
            AddressFamily::INET,
            libc::SIOCSIFMTU,
            "set the MTU",
            &self.name,
            &mut request,
        )
    }

    /// By netlink: the ioctl for this is refused to root in a user namespace.
    fn set_queue_len(&self) -> Result<(), TunError> {
        let link = LinkUnspec::new_with_name(&self.name).txqueuelen(QUEUE_LEN);
        Ok(Links::open()?.change(link, || format!("set the queue length of {}", self.name))?)
    }

    /// Gives the device an address; the kernel adds the route to the address's network. To be called in the
    /// device's network namespace.
    pub fn add_address(&self, address: IpNet) -> Result<(), TunError> {
        add_address(&self.name, address)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Brings an interface of this network namespace up.
pub fn set_up(name: &str) -> Result<(), TunError> {
    let mut request = request(name)?;
    control(
        AddressFamily::INET,
        libc::SIOCGIFFLAGS,
        "read the flags",
        name,
        &mut request,
    )?;
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    control(
        AddressFamily::INET,
        libc::SIOCSIFFLAGS,
        "bring the link up",
        name,
        &mut request,
    )
}

/// Gives an interface of this network namespace an address.
pub fn add_address(name: &str, address: IpNet) -> Result<(), TunError> {
    match address {
        IpNet::V4(net) => {
            let mut request = request(name)?;
            request.ifr_ifru.ifru_addr = sockaddr_v4(net.addr());
            control(
                AddressFamily::INET,
                libc::SIOCSIFADDR,
                "set the address",
                name,
                &mut request,
            )?;
            request.ifr_ifru.ifru_netmask = sockaddr_v4(net.netmask());
            control(
                AddressFamily::INET,
                libc::SIOCSIFNETMASK,
                "set the netmask",
                name,
                &mut request,
            )
        }
        IpNet::V6(net) => {
            let mut query = request(name)?;
            control(
                AddressFamily::INET,
                libc::SIOCGIFINDEX,
                "read the index",
                name,
                &mut query,
            )?;
            // SAFETY: SIOCGIFINDEX has just filled this member of the union.
            let index = unsafe { query.ifr_ifru.ifru_ifindex };
            let mut request = libc::in6_ifreq {
                ifr6_addr: libc::in6_addr {
                    s6_addr: net.addr().octets(),
                },
                ifr6_prefixlen: u32::from(net.prefix_len()),
                ifr6_ifindex: index,
            };
            control(
                AddressFamily::INET6,
                libc::SIOCSIFADDR,
                "set the address",
                name,
                &mut request,
            )
        }
    }
}

fn set_offload(fd: &OwnedFd, offload: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    netdevice::answer(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offload))
    })
}

fn sockaddr_v4(address: std::net::Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets();
    let mut data = [0; 14];
    for (slot, byte) in data[2..6].iter_mut().zip([a, b, c, d]) {
        *slot = byte as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn request(name: &str) -> Result<libc::ifreq, TunError> {
    // Programs would take a leading '-' for an option.
    let valid = !name.is_empty()
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    netdevice::request(name)
        .filter(|_| valid)
        .ok_or_else(|| TunError::BadName {
            name: name.to_owned(),
        })
}

fn control<T>(
    family: AddressFamily,
    operation: libc::c_ulong,
    action: &'static str,
    name: &str,
    request: &mut T,
) -> Result<(), TunError> {
    // SAFETY: every caller pairs the operation with the structure that it reads and writes
    // (ifreq, or in6_ifreq for SIOCSIFADDR on an IPv6 socket).
    unsafe { netdevice::control(family, operation, request) }.map_err(|source| TunError::Io {
        action,
        name: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused_before_the_kernel_sees_them() {
        for name in ["", "..", "a/b", "-x", "sixteen-letters-", "white space", "per%d"] {
            let options = TunOptions {
                name: name.into(),
                mtu: 1420,
                offload: false,
                nonblocking: true,
            };
            let error = Tun::open(&options).unwrap_err();
            assert!(matches!(error, TunError::BadName { .. }), "{name:?} gave {error}");
            assert!(error.to_string().contains(&format!("{name:?}")));
        }
    }

    /// Moving a tunnel's device into another namespace is what WireGuard's own documentation does with it.
    #[test]
    fn the_mtu_is_that_of_the_device_under_another_name_and_in_another_namespace() {
        let name = "tun::tests::the_mtu_is_that_of_the_device_under_another_name_and_in_another_namespace";
        crate::testing::as_root(name, || {
            let (here, there) = (Netns::new().unwrap(), Netns::new().unwrap());
            here.run(|| {
                let options = |name: &str, mtu| TunOptions {
                    name: name.into(),
                    mtu,
                    offload: false,
                    nonblocking: true,
                };
                let tun = Tun::open_queues(&options("one", 1420), 1, false)
                    .unwrap()
                    .remove(0);
                let links = Links::open().unwrap();
                links.rename("one", "two").unwrap();
                links.set_mtu("two", 1500).unwrap();
                assert_eq!(tun.mtu().unwrap(), 1500);
                let _other = Tun::open(&options("one", 1300)).unwrap();
                assert_eq!(tun.mtu().unwrap(), 1500, "not that of who took the name");
                links.move_to("two", &there).unwrap();
                let links = Links::open_in(&there).unwrap();
                links.set_mtu("two", 9000).unwrap();
                assert_eq!(tun.mtu().unwrap(), 9000);
                links.remove("two").unwrap();
                let gone = tun.mtu().unwrap_err().to_string();
                assert!(gone.contains("on interface one"), "{gone}");
            })
            .unwrap();
        });
    }

    /// A kernel without the driver, or a pod without the mount.
    #[test]
    fn without_the_tun_driver_the_error_says_what_to_load_and_mount() {
        use rustix::mount::{MountFlags, mount};
        let name = "tun::tests::without_the_tun_driver_the_error_says_what_to_load_and_mount";
        crate::testing::as_root(name, || {
            // Mounts are a thread's own once it has left the others'.
            crate::sandbox::own_mounts().unwrap();
            mount("none", "/dev/net", "tmpfs", MountFlags::empty(), None).unwrap();
            let options = TunOptions {
                name: "strait-tun".into(),
                mtu: 1420,
                offload: true,
                nonblocking: true,
            };
            let error = Tun::open(&options).unwrap_err();
            assert!(matches!(error, TunError::Missing), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("/dev/net/tun") && text.contains("CONFIG_TUN"),
                "{text}"
            );
        });
    }

    #[test]
    fn errors_name_the_object_and_the_next_step() {
        assert!(TunError::Missing.to_string().contains("CONFIG_TUN"));
        let denied = TunError::Denied {
            name: "strait-tun".into(),
        }
        .to_string();
        assert!(
            denied.contains("strait-tun") && denied.contains("0666"),
            "{denied}"
        );
    }
}
