# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation shared by the hetzner_ modules."""

from __future__ import annotations


class ModuleDocFragment:
    """Identity, connection and the shape of a topology."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - Name of the stack. Its resources carry it in the label C(cutover.stack), which is all that is remembered of a stack.
      - At most 63 letters, digits, C(-), C(_) and C(.).
    type: str
    required: true
  api_token:
    description: Token of the cloud project. Without it the environment variable E(HCLOUD_TOKEN) is used.
    type: str
  api_endpoint:
    description: Address of the API. Without it the environment variable E(HCLOUD_ENDPOINT) is used, and without that Hetzner's own.
    type: str
requirements:
  - hcloud >= 2.27, < 3 for the interpreter that runs the module
  - Python >= 3.11
"""

    TOPOLOGY = r"""
options:
  topology:
    description:
      - What the stack consists of. Unknown keys, references to nothing and impossible combinations are refused with the path of the key, all at once.
      - A server without O(topology.servers[].count) has exactly its name; with it, also with V(1), the servers are C(name-1), C(name-2) and so on.
      - Labels that begin with C(cutover.) belong to the collection.
      - User data is only compared and shown by its hash. Set C(no_log) on the task if it holds secrets, so that the arguments are not logged either.
    type: dict
    suboptions:
      location:
        description: Where everything is that names no location of its own.
        type: str
      labels:
        description: Labels for every resource.
        type: dict
      ssh_keys:
        description:
          - Public keys for O(topology.servers[].ssh_keys).
          - A project holds each key once. If it is already there under any name, it is used as it is and stays another's.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the key., type: str, required: true}
          public_key: {description: One line in OpenSSH's format., type: str, required: true}
          labels: {description: Labels of this resource., type: dict}
      networks:
        description: Private networks.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the network., type: str, required: true}
          ip_range: {description: A private range that holds all subnets. It can grow., type: str, required: true}
          subnets:
            description: Servers can only join a network that has a subnet in their network zone.
            type: list
            elements: dict
            suboptions:
              ip_range: {description: A part of the network's range., type: str, required: true}
              type: {description: Kind of subnet., type: str, choices: [cloud], default: cloud}
              network_zone:
                description: Where its members are.
                type: str
                choices: [eu-central, us-east, us-west, ap-southeast]
                default: eu-central
          routes:
            description: Routes that all members get.
            type: list
            elements: dict
            suboptions:
              destination: {description: A network., type: str, required: true}
              gateway: {description: An address of a member., type: str, required: true}
          labels: {description: Labels of this resource., type: dict}
          protection: {description: Protected against deletion. Not declared means left as it is., type: bool}
      firewalls:
        description: Firewalls for O(topology.servers[].firewalls). The order of rules has no meaning.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the firewall., type: str, required: true}
          rules:
            description: What is let through. Without rules for a direction, nothing comes in and everything goes out.
            type: list
            elements: dict
            suboptions:
              direction: {description: Seen from the server., type: str, choices: [in, out], default: in}
              protocol: {description: Its protocol., type: str, choices: [tcp, udp, icmp, esp, gre], required: true}
              port: {description: "A port, a range such as V(8000-8100), or V(any). For tcp and udp only.", type: str}
              source_ips: {description: Networks or addresses; for V(in)., type: list, elements: str}
              destination_ips: {description: Networks or addresses; for V(out)., type: list, elements: str}
              description: {description: A remark that is kept with the rule., type: str, default: ''}
          labels: {description: Labels of this resource., type: dict}
      placement_groups:
        description: Groups that spread up to 10 servers over different hosts.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the group., type: str, required: true}
          type: {description: Kind of group., type: str, choices: [spread], default: spread}
          labels: {description: Labels of this resource., type: dict}
      primary_ips:
        description: Public addresses that outlive their server.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the address., type: str, required: true}
          type: {description: Family., type: str, choices: [ipv4, ipv6], default: ipv4}
          location: {description: That of its server if it has one., type: str}
          server: {description: Name of the server that has it., type: str}
          labels: {description: Labels of this resource., type: dict}
          protection: {description: Protected against deletion. Not declared means left as it is., type: bool}
          dns_ptr: {description: "Reverse name, in the forms of O(topology.floating_ips[].dns_ptr).", type: raw}
      floating_ips:
        description:
          - Public addresses that move between running servers. A server has them beside an address of its own; what runs on it has to configure them.
          - Whoever moves one at run time has it moved back by the next run.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the address., type: str, required: true}
          type: {description: Family. Another one later needs C(allow_replace) of C(hetzner_stack)., type: str, choices: [ipv4, ipv6], default: ipv4}
          home_location:
            description:
              - Where its traffic enters. Another one later needs C(allow_replace) of C(hetzner_stack).
              - Without it, it is made where its server is declared, else in the location of the topology, and stays there.
            type: str
          server: {description: Name of the server it is assigned to. Not declared means none., type: str}
          description: {description: A remark that is kept with it. Not declared means left as it is., type: str}
          labels: {description: Labels of this resource., type: dict}
          protection: {description: Protected against deletion. Not declared means left as it is., type: bool}
          dns_ptr:
            description:
              - 'For V(ipv4) a host name. For V(ipv6) a mapping from addresses to host names; an address is a whole one inside the network, or only
                the part behind it, such as V("::1"), which is all that can be known before the network is there.'
              - An empty name goes back to the provider's (IPv4), or removes it (IPv6).
              - Not declared means left as it is; so are the addresses that the mapping does not name.
              - The addresses that servers get by themselves have no reverse names here. Declare a primary IP for that.
            type: raw
      zones:
        description:
          - DNS zones. Clients see them when the registrar of the domain delegates it to the name servers that M(cutover.hetzner.hetzner_stack_info)
            returns with the zone. The SOA and NS records of a zone itself belong to the service and are never touched.
          - A zone of that name which does not carry the stack's label is refused, never taken over.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - The domain directly below a public suffix, such as V(example.org) or V(example.co.uk); the service takes no subdomains.
              - Letters beyond ASCII are turned into punycode. The few that two standards read differently, such as C(ß), are refused.
            type: str
            required: true
          mode:
            description: In V(secondary) the records come from other name servers. Another mode later needs C(allow_replace) of C(hetzner_stack).
            type: str
            choices: [primary, secondary]
            default: primary
          ttl:
            description:
              - Seconds that resolvers keep records which say nothing else, 60 to 2147483647.
              - Not declared means left as it is; V(3600) in a new zone.
            type: int
          primary_nameservers:
            description: Where a secondary zone is fetched from, by AXFR. Required for V(secondary), and only there.
            type: list
            elements: dict
            suboptions:
              address: {description: A public address., type: str, required: true}
              port: {description: Its port., type: int, default: 53}
              tsig_key:
                description:
                  - Key for the transfer, in base64. Only its hash is compared and shown.
                  - Set C(no_log) on the task, so that the arguments are not logged either.
                type: str
              tsig_algorithm: {description: Goes with the key., type: str, choices: [hmac-md5, hmac-sha1, hmac-sha256]}
          labels: {description: Labels of this resource., type: dict}
          protection: {description: Protected against deletion. Not declared means left as it is., type: bool}
          exclusive:
            description:
              - Delete every record set of the zone that is not declared, whoever made it, also without C(prune) of C(hetzner_stack).
              - Otherwise sets of another hand stay, such as those of a certificate client, and those that were declared before stay without C(prune).
              - Where a set that was declared before has no room beside a CNAME that is declared now, or the other way around, it goes in any case.
            type: bool
            default: false
          records:
            description:
              - Record sets. There is one for each name and type, and it has all values of both. For V(primary) only.
              - One that another hand made in this zone is taken over, and the plan says so.
            type: list
            elements: dict
            suboptions:
              name:
                description: Relative to the zone, such as V(www) or V(_sip._tcp); V(@) for the zone itself, V(*) for names that have no records.
                type: str
                required: true
              type:
                description: Type of the records. A CNAME is alone at its name, and not at V(@).
                type: str
                choices: [A, AAAA, CAA, CNAME, DS, HINFO, HTTPS, MX, NS, PTR, RP, SRV, SVCB, TLSA, TXT]
                required: true
              ttl: {description: "As O(topology.zones[].ttl), for this set. Not declared means that of the zone.", type: int}
              values:
                description:
                  - 1 to 50 values, in the form of zone files such as V(10 mail.example.net.), or a mapping. Their order has no meaning.
                  - A TXT value is the text alone. It is quoted, and split where it is longer than 255 characters, when it is sent.
                  - A name in a value ends with a dot, or is a single word for a name in this zone, or V(@) for the zone itself.
                    V(mail.example.net) without the dot could be meant either way and is refused.
                  - 'A mapping has either C(value), or for A and AAAA the name of what is declared in C(server), C(primary_ip), C(floating_ip) or
                    C(load_balancer): the value is its address then, also when that changes. C(address) is V(ipv4) or V(ipv6), which follow from the
                    type of the record, or V(private), with the C(network) where there are several. Of an IPv6 network it is the first address.'
                  - In a mapping C(comment) is kept with the value. Not declared means left as it is.
                type: list
                elements: raw
                required: true
              labels: {description: Labels of this set., type: dict}
              protection:
                description:
                  - Protected against changes and deletion. Not declared means left as it is.
                  - To change what is protected needs C(allow_destroy_protected) of C(hetzner_stack); it is protected again afterwards.
                type: bool
      certificates:
        description:
          - TLS certificates for load balancers.
          - Another content, other names or another type is made anew under the same name; the load balancers change over to it, then the
            old one is deleted. This needs no permission and leaves no gap.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the certificate., type: str, required: true}
          type:
            description: V(uploaded) brings its own key and is renewed by you; V(managed) is issued and renewed by the provider.
            type: str
            choices: [uploaded, managed]
            default: uploaded
          certificate: {description: "Certificate and chain in PEM, for V(uploaded). Compared by the SHA-256 fingerprint of the first.", type: str}
          private_key: {description: "Its unencrypted key in PEM, for V(uploaded). Never returned, and never logged by the module.", type: str}
          domain_names:
            description: Names it is for, for V(managed). Their DNS zones have to be in the same project.
            type: list
            elements: str
          labels: {description: Labels of this resource., type: dict}
      load_balancers:
        description:
          - Load balancers. What others did to their services and targets is put right by the next run.
          - What is not said of a service has the values that are documented here, which are those that the API gives.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the load balancer., type: str, required: true}
          type: {description: "Type such as V(lb11). Changed in place.", type: str, required: true}
          location:
            description: That of the topology if not given. Another one later needs C(allow_replace) of C(hetzner_stack).
            type: str
          network_zone:
            description: In place of a location, where the provider may choose one.
            type: str
            choices: [eu-central, us-east, us-west, ap-southeast]
          algorithm: {description: Which target is next., type: str, choices: [round_robin, least_connections], default: round_robin}
          network: {description: A declared private network that it joins., type: str}
          private_ip: {description: Its address there. Not given means any free one., type: str}
          public_interface:
            description: Is reached by its public addresses. Without, it needs O(topology.load_balancers[].network).
            type: bool
            default: true
          services:
            description: What it listens to. Each port once; a redirect listens on port 80 as well.
            type: list
            elements: dict
            suboptions:
              protocol: {description: "Protocol; V(https) ends TLS here, V(tcp) hands it through.", type: str, choices: [tcp, http, https], required: true}
              listen_port: {description: "Port; V(80) for http, V(443) for https if not given. Required for tcp.", type: int}
              destination_port: {description: "Port of the targets; V(80) for http and https, the listening port for tcp if not given.", type: int}
              proxyprotocol: {description: Tells the targets the client's address by the proxy protocol., type: bool, default: false}
              http:
                description: For http and https.
                type: dict
                suboptions:
                  sticky_sessions: {description: A client stays with its target., type: bool, default: false}
                  cookie_name: {description: Name of the cookie for that., type: str, default: HCLBSTICKY}
                  cookie_lifetime: {description: "Its life in seconds, 30 to 86400.", type: int, default: 300}
                  timeout_idle: {description: "Seconds without traffic until a connection is closed, 30 to 300.", type: int, default: 50}
                  certificates: {description: Declared certificates. At least one for https., type: list, elements: str}
                  redirect_http: {description: Sends http on port 80 to https., type: bool, default: false}
              health_check:
                description: When a target gets traffic.
                type: dict
                suboptions:
                  protocol: {description: "V(tcp) for tcp services, V(http) for others if not given.", type: str, choices: [tcp, http]}
                  port: {description: The service's destination port if not given., type: int}
                  interval: {description: "Seconds between checks, 3 to 60.", type: int, default: 15}
                  timeout: {description: "Seconds to wait for an answer, 1 to 60.", type: int, default: 10}
                  retries: {description: "Failures until a target gets no more traffic, 1 to 5.", type: int, default: 3}
                  http:
                    description: For protocol http.
                    type: dict
                    suboptions:
                      domain: {description: Host header. Empty means none., type: str, default: ''}
                      path: {description: Path that is asked for., type: str, default: /}
                      response: {description: Text that must be in the answer., type: str, default: ''}
                      status_codes: {description: "Statuses that are good, with V(?) and V(*). Not given means V(2??) and V(3??).", type: list, elements: str}
                      tls: {description: Asks by https., type: bool, default: false}
          targets:
            description:
              - Where traffic goes. Each has exactly one of server, label_selector and ip.
              - New ones are added before old ones are removed, if there is room for both.
            type: list
            elements: dict
            suboptions:
              server:
                description: Name of a declared server. That of servers with O(topology.servers[].count) without a number means all of them.
                type: str
              label_selector: {description: "All servers of the project with these labels, such as V(role=web).", type: str}
              ip: {description: Public address of a dedicated server of your own., type: str}
              use_private_ip: {description: Over the network that both are in., type: bool, default: false}
          labels: {description: Labels of this resource., type: dict}
          protection: {description: Protected against deletion. Not declared means left as it is., type: bool}
          dns_ptr:
            description:
              - Reverse name of both public addresses, or a mapping with V(ipv4) and V(ipv6). An empty name goes back to the provider's.
              - Not declared means left as it is.
            type: raw
      volumes:
        description: Volumes. They can grow, not shrink.
        type: list
        elements: dict
        suboptions:
          name: {description: Name of the volume., type: str, required: true}
          size: {description: "In GB, 10 to 10240.", type: int, required: true}
          format: {description: File system to make once. Not declared means none., type: str, choices: [ext4, xfs]}
          location: {description: That of its server if it has one., type: str}
          server: {description: Name of the server it is attached to., type: str}
          automount: {description: Mounted by the server when it is attached., type: bool, default: false}
          labels: {description: Labels of this resource., type: dict}
          protection: {description: Protected against deletion. Not declared means left as it is., type: bool}
      servers:
        description: Servers.
        type: list
        elements: dict
        suboptions:
          name: {description: "Its host name, or what precedes the number with O(topology.servers[].count).", type: str, required: true}
          type:
            description:
              - Server type such as V(cx33). Another type later needs C(allow_power_off) of C(hetzner_stack).
              - Exactly one of this and O(topology.servers[].requirements).
            type: str
          requirements:
            description:
              - What the server must have, in place of a type. The cheapest type by list price that has it all is taken, of those
                that are available in the server's location and not announced to be retired. When it has no capacity after all, the next cheapest
                are tried in turn, then the same in the locations of C(capacity.locations). C(capacity.server_types) has no part in it.
              - Only O(topology.servers[].requirements.price) and C(budget) bound what is taken then.
              - A server that meets them stays as it is, also when a cheaper type appears or its type is retired. One that does not is changed to
                the cheapest type that does and fits its disk, which needs C(allow_power_off); another architecture needs C(allow_replace).
            type: dict
            suboptions:
              cores: {description: "Cores, at least.", type: int}
              memory: {description: "Memory in GB, at least.", type: float}
              disk:
                description: Local disk in GB, at least. A server whose disk is smaller gets a type with more, and its disk grows; it never shrinks.
                type: int
              dedicated: {description: "Whether its cores are its own (V(true)) or shared (V(false)). Not given means either.", type: bool}
              architecture: {description: Not given means any that the image exists for., type: str, choices: [x86, arm]}
              price:
                description:
                  - The most that the type may cost a month, net, in the currency of the account, without its address and backups.
                  - It bounds what is ordered. A server that runs stays, also when the list says more today.
                type: float
          image: {description: "Image name such as V(debian-12), or the id of a snapshot.", type: str, required: true}
          location: {description: That of the topology if not given., type: str}
          count: {description: "Number of servers of this kind, 1 to 100.", type: int}
          networks:
            description: Private networks it joins.
            type: list
            elements: dict
            suboptions:
              name: {description: A declared network., type: str, required: true}
              ip: {description: Its address there. Not given means any free one., type: str}
          firewalls: {description: "Declared firewalls, at most 5.", type: list, elements: str}
          placement_group: {description: A declared group., type: str}
          ssh_keys: {description: Declared keys that may log in as root. Used at creation only., type: list, elements: str}
          labels: {description: Labels of this resource., type: dict}
          user_data: {description: "For cloud-init at the first boot, at most 32 KiB.", type: str, default: ''}
          public_ipv4: {description: Has a public IPv4 address., type: bool, default: true}
          public_ipv6: {description: Has a public IPv6 network., type: bool, default: true}
          backups: {description: Daily backups., type: bool, default: false}
          protection: {description: Protected against deletion and rebuild. Not declared means left as it is., type: bool}
          groups: {description: Ansible groups that are returned in C(hosts). Remembered in a label., type: list, elements: str}
"""
