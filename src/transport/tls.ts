/**
 * What TLS needs besides a stream: the material in the words of Bun's sockets, whose certificate is whose (RFC 5922 §7),
 * and the reason of each refusal in words that an operator can act on.
 *
 * Both roles use the same material. Bun's own judgement of names is not used: it takes wildcards, which RFC 5922 §7.2
 * forbids, and knows nothing of SIP URIs. The files are read in certificates.ts, which a node without any never loads.
 */
import { canonicalIp, type Endpoint } from "../core/endpoint.ts";
import { errorCode } from "./transport.ts";

/** Paths of PEM files, as an operator gives them. */
export interface TlsOptions {
  /** The certificate of this node, followed by its chain. */
  readonly cert?: string | undefined;
  /** The private key of `cert`, without a passphrase. */
  readonly key?: string | undefined;
  /** Certificates of the authorities that vouch for the others; without it, the public ones of Bun. */
  readonly ca?: string | undefined;
  /** Whether the certificate of a node that we connect to must be valid, and for its name or address. Default `peer`. */
  readonly verify?: "peer" | "none";
  /** Refuse who connects to us without a certificate that `ca` vouches for. */
  readonly requireClientCert?: boolean;
}

/** The contents of those files, checked. */
export interface TlsMaterial {
  readonly cert?: string;
  readonly key?: string;
  readonly ca?: string;
  readonly verify: "peer" | "none";
  readonly requireClientCert: boolean;
}

/** What a node without options connects with: no certificate of its own, the public authorities. */
export const PLAIN_MATERIAL: TlsMaterial = { verify: "peer", requireClientCert: false };

/** Where we accept. Bun ends a client whose certificate is not valid after its handshake, without an alert. */
export function serverTls({ cert, key, ca, requireClientCert }: TlsMaterial): Bun.TLSOptions {
  return {
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(ca !== undefined && requireClientCert && { ca }),
    requestCert: requireClientCert,
    rejectUnauthorized: true,
  };
}

/** Where we connect. What Bun finds wrong is only noted, and judged in `serverRefusal` before an octet goes out. */
export function clientTls({ cert, key, ca }: TlsMaterial, to: Endpoint): Bun.TLSOptions {
  return {
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(ca !== undefined && { ca }),
    // RFC 6066 §3 allows no IP literal as a server name, and Bun sends one unless the name is empty.
    serverName: withoutRoot(to.name ?? to.domain ?? ""),
    rejectUnauthorized: false,
  };
}

/** What Bun gives of a certificate, as far as it is looked at. */
export interface PeerCertificate {
  readonly subjectaltname?: string;
  readonly issuer?: Readonly<Record<string, unknown>>;
  readonly valid_from?: string;
  readonly valid_to?: string;
}

/**
 * Judges the server that we connected to, when the handshake is through.
 *
 * @param cause  what Bun's handshake handler was given
 * @returns      why it is refused, `undefined` if octets may go out
 */
export function serverRefusal(
  cause: Error | null,
  to: Endpoint,
  verify: TlsMaterial["verify"],
  certificate: PeerCertificate | undefined,
): string | undefined {
  if (cause !== null && isBroken(cause)) return explainHandshake(cause);
  if (verify === "none") return undefined;
  // Bun's own look at the name comes after the chain, so the chain is good where it complains of the name.
  if (cause !== null && errorCode(cause) !== "ERR_TLS_CERT_ALTNAME_INVALID") return explainChain(cause, certificate);
  const hosts = [to.name ?? to.ip, ...(to.domain === undefined ? [] : [to.domain])].map(withoutRoot);
  if (hosts.some((host) => isNamed(certificate?.subjectaltname, host))) return undefined;
  const names = shortened(certificate?.subjectaltname ?? "");
  return `its certificate is not for ${hosts.join(" or ")}, ${names === "" ? "and has no subjectAltName at all" : `but for ${names}`}`;
}

/** `a.example.` in DNS is `a.example` in a certificate, and as server name (RFC 6066 §3). */
function withoutRoot(host: string): string {
  return host.replace(/\.$/, "");
}

const NO_CLIENT_CERTIFICATE = "it gave no client certificate, and tls_require_client_cert wants one";

/**
 * Judges a client that connected to us.
 *
 * @param alert  the alert that came in clear text, if one did
 * @returns      why it is refused, `undefined` if it may speak
 */
export function clientRefusal(
  cause: Error | null,
  requireClientCert: boolean,
  certificate: PeerCertificate | undefined,
  alert: number | undefined,
): string | undefined {
  if (cause !== null && alert !== undefined) return explainAlert(alert);
  if (cause !== null && isBroken(cause)) return explainHandshake(cause);
  // Where no certificate was asked for, Bun complains that there is none.
  if (!requireClientCert) return undefined;
  if (cause !== null) return explainChain(cause, certificate);
  return certificate === undefined ? NO_CLIENT_CERTIFICATE : undefined;
}

/** True if the handshake itself came to no end; any other complaint of Bun's is about a certificate. */
function isBroken(cause: Error): boolean {
  return ["EPROTO", "ECONNRESET", "EPIPE", "ETIMEDOUT", "ECONNABORTED"].includes(errorCode(cause));
}

/**
 * RFC 5922 §7.1 and §7.2: the identities of a certificate are its SIP URIs without a user, and its DNS names, compared as a
 * whole. For an IP literal an iPAddress entry counts as well.
 *
 * @param altNames  the subjectAltName as Node prints it: `DNS:a.example, IP Address:192.0.2.1, URI:sip:a.example`
 */
export function isNamed(altNames: string | undefined, host: string): boolean {
  const ip = canonicalIp(host);
  return altNameEntries(altNames ?? "").some(([kind, value]) => {
    if (kind === "URI") return sameHost(hostOfSipUri(value), host, ip);
    if (kind === "IP Address") return ip !== undefined && canonicalIp(value) === ip;
    return kind === "DNS" && ip === undefined && sameHost(value, host, undefined);
  });
}

/** Node puts a value with a comma or a quote into quotes, as JSON: a DNS name cannot pass for a second entry. */
function altNameEntries(text: string): [kind: string, value: string][] {
  return [...text.matchAll(/(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,"]*)/g)].map(([, kind = "", value = ""]) => [
    kind,
    value.startsWith('"') ? unquoted(value) : value,
  ]);
}

function unquoted(value: string): string {
  try {
    return String(JSON.parse(value));
  } catch {
    return "";
  }
}

/** RFC 5922 §7.1: a URI with a user names a person, not a node. */
function hostOfSipUri(uri: string): string {
  const match = /^sip:(\[[^\]]*\]|[^@:;?]*)(?::\d+)?(?:[;?][^@]*)?$/i.exec(uri);
  return match?.[1] ?? "";
}

function sameHost(named: string, host: string, ip: string | undefined): boolean {
  return ip === undefined ? named !== "" && named.toLowerCase() === host.toLowerCase() : canonicalIp(named) === ip;
}

/** A certificate that nobody vouches for may hold a name of any length, and a reason goes to the log. */
const QUOTED_MAX = 200;

function shortened(text: string): string {
  return text.length <= QUOTED_MAX ? text : `${text.slice(0, QUOTED_MAX)}…`;
}

/** Bun names what it finds wrong with a chain as OpenSSL does (X509_V_ERR_…). */
function explainChain(cause: Error, certificate: PeerCertificate | undefined): string {
  const issuer = shortened(String(certificate?.issuer?.CN ?? certificate?.issuer?.O ?? "an authority without a name"));
  switch (errorCode(cause)) {
    case "CERT_HAS_EXPIRED":
      return `its certificate expired on ${certificate?.valid_to ?? "a day that it does not tell"}`;
    case "CERT_NOT_YET_VALID":
      return `its certificate is not valid before ${certificate?.valid_from ?? "a day that it does not tell"}`;
    case "DEPTH_ZERO_SELF_SIGNED_CERT":
      return "its certificate is self-signed and not in tls_ca (unknown authority)";
    case "SELF_SIGNED_CERT_IN_CHAIN":
    case "UNABLE_TO_GET_ISSUER_CERT":
    case "UNABLE_TO_GET_ISSUER_CERT_LOCALLY":
    case "UNABLE_TO_VERIFY_LEAF_SIGNATURE":
      return `its certificate is from an unknown authority, ${issuer}, which is not in tls_ca`;
    case "INVALID_PURPOSE":
      return "its certificate is not for this use (extendedKeyUsage)";
    default:
      return `its certificate is not valid: ${errorCode(cause)}, ${cause.message}`;
  }
}

/** RFC 8446 §6.2, those that say something about certificates; the others keep their number. */
const ALERTS = new Map<number, string>([
  [40, "handshake_failure: no certificate of ours where one was required, or no cipher in common"],
  [42, "bad_certificate: our certificate is not valid to the other side"],
  [43, "unsupported_certificate: our certificate is not for this use (extendedKeyUsage)"],
  [44, "certificate_revoked: our certificate is revoked"],
  [45, "certificate_expired: our certificate has expired"],
  [46, "certificate_unknown: our certificate is not accepted there"],
  [48, "unknown_ca: the other side does not know the authority of our certificate"],
  [49, "access_denied: our certificate is valid, and not wanted"],
  [70, "protocol_version: no version of TLS in common"],
  [71, "insufficient_security: no cipher in common"],
  [80, "internal_error: something broke on the other side"],
  [112, "unrecognized_name: the other side has no certificate for the name that we asked for"],
  [116, "certificate_required: the other side wants a certificate of ours (tls_cert), and got none"],
]);

/** @returns the alert of the other side in words */
function explainAlert(alert: number): string {
  return `refused by the other side, alert ${alert} ${ALERTS.get(alert) ?? "(RFC 8446 section 6.2 says which)"}`;
}

/** BoringSSL: an alert of the other side is reason 1,000 and its number, in the lower 12 bits of the code in front. */
const ALERT_REASON_MIN = 1_000;

/** @param cause  Bun's error of a handshake that failed, or of a session that broke: `error:1000045c:SSL routines:…` */
export function explainHandshake(cause: Error): string {
  if (errorCode(cause) !== "EPROTO") return "the other side ended the connection in the middle of the handshake";
  const reason = Number.parseInt(/^error:([0-9a-f]{8}):/.exec(cause.message)?.[1] ?? "0", 16) & 0xfff;
  if (reason >= ALERT_REASON_MIN) return explainAlert(reason - ALERT_REASON_MIN);
  const name = cause.message.slice(cause.message.lastIndexOf(":") + 1);
  switch (name) {
    case "PEER_DID_NOT_RETURN_A_CERTIFICATE":
      return NO_CLIENT_CERTIFICATE;
    case "WRONG_VERSION_NUMBER":
    case "HTTP_REQUEST":
    case "HTTPS_PROXY_REQUEST":
    case "UNEXPECTED_RECORD":
    case "EXCESSIVE_MESSAGE_SIZE":
    case "ENCRYPTED_LENGTH_TOO_LONG":
      return `what the other side sends is no TLS (${name}): another protocol is on this port`;
    case "UNSUPPORTED_PROTOCOL":
      return "no version of TLS in common; ours are 1.2 and 1.3";
    case "NO_SHARED_CIPHER":
      return "no cipher in common";
    default:
      return `the handshake failed: ${name}`;
  }
}

/** A fatal alert as TLS writes it before keys are agreed on: record type 21, two octets, level 2, description (RFC 8446 §6). */
export function clearAlert(bytes: Uint8Array): number | undefined {
  const at = bytes.length - 7;
  const isAlert = at >= 0 && bytes[at] === 21 && bytes[at + 1] === 3 && bytes[at + 3] === 0 && bytes[at + 4] === 2;
  return isAlert && bytes[at + 5] === 2 ? bytes[at + 6] : undefined;
}
