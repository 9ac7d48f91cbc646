package escape

import (
	"bytes"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// network are attempts at what listens, and at sockets of other kinds than a worker needs.
var network = []Attempt{
	{"connect to the host's loopback", func(t Targets) error { return dial("tcp", t.TCP) }},
	{"connect to an abstract socket", func(t Targets) error { return dial("unix", t.Abstract) }},
	{"connect to a socket's path", func(t Targets) error { return dial("unix", t.Socket) }},
	{"see a network beyond loopback", func(Targets) error {
		content, err := os.ReadFile("/proc/net/dev")
		if err != nil {
			return err
		}
		if lines := bytes.Count(content, []byte(":")); lines > 1 {
			return nil
		}
		return errNotThere
	}},
	{"raw socket", func(Targets) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
	{"packet socket", func(Targets) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
	{"vsock", func(Targets) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
	{"vsock with high bits", func(Targets) error { return socket(unix.AF_VSOCK|1<<32, unix.SOCK_STREAM, 0) }},
	{"AF_ALG", func(Targets) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }},
	{"netlink beyond routing", func(Targets) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT) }},
	{"connect to a container engine", func(t Targets) error {
		for _, path := range append(engines, t.Engine) {
			if dial("unix", path) == nil {
				return nil
			}
		}
		return errNotThere
	}},
	{"connect to a container engine's abstract socket", func(t Targets) error { return dial("unix", t.AbstractEngine) }},
	{"connect to the metadata service", func(Targets) error { return connectMetadata() }},
	{"ping socket", func(Targets) error { return socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP) }},
	{"raw socket of version 6", func(Targets) error { return socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6) }},
	{"stream socket of a rare protocol", func(Targets) error { return socket(unix.AF_INET, unix.SOCK_STREAM, 262) }}, // MPTCP
	{"netfilter", func(Targets) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER) }},
	{"socket diagnosis", func(Targets) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG) }},
	{"audit", func(Targets) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT) }},
	{"any other family of sockets", func(Targets) error {
		var last error
		for domain := uintptr(0); domain < 64; domain++ {
			switch domain {
			case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK:
				continue
			}
			for kind := uintptr(unix.SOCK_STREAM); kind <= unix.SOCK_PACKET; kind++ {
				if last = socket(domain, kind, 0); last == nil {
					return nil
				}
			}
		}
		return last
	}},
	{"configure the network", func(Targets) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	}},
}

// engines are where container engines and service managers listen.
var engines = []string{
	"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock",
	"/run/buildkit/buildkitd.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/user/1000/bus",
}

const metadataPort = 80

var metadataAddress = [4]byte{169, 254, 169, 254}

func connectMetadata() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	return unix.Connect(fd, &unix.SockaddrInet4{Port: metadataPort, Addr: metadataAddress})
}

// serveMetadata listens on the address, in a network namespace of this thread's.
func serveMetadata(*Targets) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, request := range []uint{unix.SIOCSIFADDR, unix.SIOCSIFFLAGS} {
		loopback, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		if request == unix.SIOCSIFADDR {
			err = loopback.SetInet4Addr(metadataAddress[:])
		} else {
			loopback.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, request, loopback)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: metadataPort, Addr: metadataAddress}); err != nil {
		return err
	}
	return unix.Listen(fd, 1)
}
