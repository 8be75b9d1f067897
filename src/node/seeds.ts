/**
 * Notification addresses whose host is a name, with `multi_notify`: which contacts an answer of DNS makes of them (dmq.md
 * 7.5). For exactly the host of the address these are the targets of its SRV records, and the addresses of the host itself.
 *
 * The port rule: with a port in the URI only SRV records with that port count, and the host's own addresses get that port;
 * without one each SRV record has its own port, and the host's own addresses get the default. Priority and weight do not count.
 */
import { addressKey, type PeerAddress } from "../membership/peer.ts";

/** Contacts of one notification address; what exceeds them is left out. Kamailio stops at 30. */
export const CONTACTS_MAX = 256;

/** What DNS says of a host: its own addresses, and one service for each address of each SRV target. */
export interface HostAnswer {
  readonly addresses: readonly string[];
  readonly services: readonly { readonly ip: string; readonly port: number }[];
  /** False where a question had no answer: what is missing may hold all the same. */
  readonly complete: boolean;
}

export interface ContactChanges {
  /** New since the last answer. */
  readonly added: readonly PeerAddress[];
  /** No notification address leads there any more. */
  readonly gone: readonly PeerAddress[];
  /** Contacts beyond the limit. */
  readonly omitted: number;
}

interface Seed {
  readonly address: PeerAddress;
  /** The port as written; `undefined` where there was none. */
  readonly port: number | undefined;
  contacts: Map<string, PeerAddress>;
}

export class Seeds {
  private readonly seeds: Seed[] = [];

  /**
   * @param address  with the default port where the URI has none
   * @param port     as written in the URI
   */
  add(address: PeerAddress, port: number | undefined): void {
    const isKnown = this.seeds.some((seed) => addressKey(seed.address) === addressKey(address) && seed.port === port);
    if (!isKnown) this.seeds.push({ address, port, contacts: new Map() });
  }

  has(host: string): boolean {
    return this.seeds.some(({ address }) => address.host === host);
  }

  /** Takes in an answer. One with nothing in it changes nothing: a zone that is empty of a sudden is a broken one. */
  update(host: string, answer: HostAnswer): ContactChanges {
    const added: PeerAddress[] = [];
    const left: PeerAddress[] = [];
    let omitted = 0;
    for (const seed of this.seeds) {
      if (seed.address.host !== host) continue;
      const found = contactsOf(seed, answer);
      if (found.size === 0) continue;
      if (!answer.complete) for (const [key, contact] of seed.contacts) found.set(key, contact);
      omitted += cut(found, CONTACTS_MAX);
      added.push(...missingIn(seed.contacts, found));
      left.push(...missingIn(found, seed.contacts));
      seed.contacts = found;
    }
    return { added, gone: left.filter((contact) => !this.leadsTo(contact)), omitted };
  }

  /** The contact counts as new when it is next found. */
  forget(contact: PeerAddress): void {
    for (const seed of this.seeds) seed.contacts.delete(addressKey(contact));
  }

  /** The next answers count as the first ones. */
  forgetAll(): void {
    for (const seed of this.seeds) seed.contacts.clear();
  }

  private leadsTo(contact: PeerAddress): boolean {
    return this.seeds.some(({ contacts }) => contacts.has(addressKey(contact)));
  }
}

function contactsOf({ address, port }: Seed, { addresses, services }: HostAnswer): Map<string, PeerAddress> {
  const found = new Map<string, PeerAddress>();
  const take = (host: string, at: number): void => {
    const contact = { transport: address.transport, host, port: at, domain: domainOf(address.host) };
    found.set(addressKey(contact), contact);
  };
  for (const service of services) if (port === undefined || service.port === port) take(service.ip, service.port);
  for (const ip of addresses) take(ip, address.port);
  return found;
}

/** What a certificate is for: the name without the labels of a service, as in `_sips._tcp.example.org` (RFC 5922 §7.1). */
function domainOf(host: string): string {
  return host.replace(/^(?:_[^.]+\.)+/, "");
}

/** Leaves the first `size` entries. @returns how many went */
function cut(contacts: Map<string, PeerAddress>, size: number): number {
  const surplus = [...contacts.keys()].slice(size);
  for (const key of surplus) contacts.delete(key);
  return surplus.length;
}

function missingIn(there: ReadonlyMap<string, PeerAddress>, here: ReadonlyMap<string, PeerAddress>): PeerAddress[] {
  return [...here].flatMap(([key, contact]) => (there.has(key) ? [] : [contact]));
}
