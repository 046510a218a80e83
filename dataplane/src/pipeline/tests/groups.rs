//! Groups are the tenant's: their members in other networks, whose packets a router brings.

use etherparse::PacketBuilder;

use super::{net::Net, scene::*};

const ROUTER: u8 = 1;

/// Network `app` with a router to network `far`, where fweb is a web server as those of `app` are, and fother is not.
fn text(far: &str) -> String {
    let far_endpoint = |name: &str, last: u8, group: &str| {
        format!(
            "[tenant.acme.endpoint.{name}]\nnetwork = \"far\"\nhost = \"gamma\"\nport = \"acme-{name}\"\n\
             mac = \"02:00:00:00:01:{last:02x}\"\naddresses = [\"{far}.{last}\"]\ngroups = [\"{group}\"]\n"
        )
    };
    [
        &scene(""),
        "[tenant.acme.group.forwards]\negress = [{ to = \"any\" }]\n",
        &endpoint(
            "acme",
            "router",
            "alpha",
            ROUTER,
            "forwards",
            "allowed_pairs = [{ address = \"10.2.0.0/24\" }]",
        ),
        &format!("[tenant.acme.network.far]\nvni = 5009\nsubnets = [\"{far}.0/24\"]\n"),
        &far_endpoint("fweb", 5, "web"),
        &far_endpoint("fother", 6, "forwards"),
    ]
    .concat()
}

/// What the router sends on for a machine of the other network, to port 53 of an endpoint.
fn forwarded(source: [u8; 4], to: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, ROUTER], [2, 0, 0, 0, 0, to])
        .ipv4(source, [10, 1, 0, to], 63)
        .udp(4000, 53)
        .write(&mut frame, b"x")
        .unwrap();
    frame
}

#[test]
fn a_member_in_another_network_of_the_tenant_is_a_member() {
    let mut net = Net::new(&text("10.2.0"));
    for db in [DB1, DB2, DB3] {
        let name = format!("db{}", db - 20);
        assert_eq!(
            net.send("router", forwarded([10, 2, 0, 5], db)),
            name.as_str(),
            "web is let in, wherever it is"
        );
    }
    for unknown_host in [[10, 2, 0, 6], [10, 2, 0, 7]] {
        let fate = net.send("router", forwarded(unknown_host, DB2));
        assert_eq!(fate, "ingress-denied at alpha", "who is not in the group is not");
    }
}

#[test]
fn an_address_of_the_network_itself_is_its_endpoints() {
    // The other network has the same addresses: its web server has the one of db1 here, which is in another group.
    let mut other = text("10.1.0").replace("10.1.0.5\"", "10.1.0.23\"");
    other = other.replace("10.2.0.0/24", "10.1.0.23");
    let mut net = Net::new(&other);
    assert_eq!(net.send("router", forwarded([10, 1, 0, 23], DB2)), "ingress-denied at alpha");
}

/// Behind a plain VTEP of a network that learns there may be a router, too, whose MAC nobody has written down.
#[test]
fn a_member_behind_a_router_that_is_learned_is_a_member() {
    let far = |name: &str, last: u8, group: &str| {
        format!(
            "[tenant.acme.endpoint.{name}]\nnetwork = \"far\"\nhost = \"gamma\"\nport = \"acme-{name}\"\n\
             mac = \"02:00:00:00:01:{last:02x}\"\naddresses = [\"10.2.0.{last}\"]\ngroups = [\"{group}\"]\n"
        )
    };
    let text = [
        &scene("learning = true\nhosts = [\"tor\"]"),
        "[host.tor]\nvtep = \"172.31.0.9\"\ndevice = \"eth0\"\nruns = \"vxlan\"\n",
        "[tenant.acme.network.far]\nvni = 5009\nsubnets = [\"10.2.0.0/24\"]\n",
        &far("fweb", 5, "web"),
        &far("fdb", 6, "db"),
    ]
    .concat();
    let mut net = Net::new(&text);
    assert_eq!(net.encap_to("beta", "tor", VNI, forwarded([10, 2, 0, 5], DB1)), "db1");
    assert_eq!(net.encap_to("beta", "tor", VNI, forwarded([10, 2, 0, 6], DB1)), "ingress-denied at beta");
}
