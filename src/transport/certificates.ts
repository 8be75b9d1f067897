/**
 * Reads the files of the TLS options and proves them before anything uses them: each must be there, be PEM, and fit the
 * others. A file that is wrong ends a start, or a reload, with an error that names the option; nothing is half applied.
 *
 * Loaded only by a node that has such a file: Node's crypto and tls modules cost a start 15 ms (measured, Bun 1.4.5).
 */
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSecureContext } from "node:tls";
import { ConfigError } from "../core/errors.ts";
import type { TlsMaterial, TlsOptions } from "./tls.ts";
import { errorCode } from "./transport.ts";

const FILE_BYTES_MAX = 4 * 1024 * 1024;

/**
 * @throws ConfigError `config-unreadable` a file cannot be read; `config-invalid-value` what is in it is not what belongs
 *         there; `config-contradiction` a certificate without its key or the other way round, a key of another certificate,
 *         client certificates required without the authorities that vouch for them
 */
export function readTls(options: TlsOptions): TlsMaterial {
  checkPairs(options);
  const cert = read("tls_cert", options.cert);
  const key = read("tls_key", options.key);
  const ca = read("tls_ca", options.ca);
  const chain = certificates("tls_cert", options.cert, cert);
  certificates("tls_ca", options.ca, ca);
  const privateKey = keyOf(options.key, key);
  if (chain[0] !== undefined && privateKey !== undefined && !chain[0].checkPrivateKey(privateKey))
    throw contradiction("tls_key with tls_cert", `${options.key} and ${options.cert}`, "the key of that certificate");
  const files = { ...(cert && { cert }), ...(key && { key }), ...(ca && { ca }) };
  proveContext(options, files);
  return { ...files, verify: options.verify ?? "peer", requireClientCert: options.requireClientCert ?? false };
}

function checkPairs({ cert, key, ca, requireClientCert }: TlsOptions): void {
  if (cert !== undefined && key === undefined)
    throw contradiction("tls_cert without tls_key", cert, "tls_key with the private key of this certificate");
  if (key !== undefined && cert === undefined)
    throw contradiction("tls_key without tls_cert", key, "tls_cert with the certificate of this key");
  if (requireClientCert === true && ca === undefined)
    throw contradiction(
      "tls_require_client_cert without tls_ca",
      "no tls_ca",
      "tls_ca with the authorities of the others",
    );
}

function contradiction(option: string, received: string, expected: string): ConfigError {
  return new ConfigError("config-contradiction", option, received, expected);
}

function read(option: string, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  let content: Buffer;
  try {
    content = readFileSync(path);
  } catch (cause) {
    const why = `${path} (${errorCode(cause) || "an error"})`;
    throw new ConfigError("config-unreadable", option, why, "a PEM file that can be read", cause);
  }
  if (content.length <= FILE_BYTES_MAX) return content.toString("utf8");
  throw new ConfigError("config-unreadable", option, `${path} (${content.length} bytes)`, "at most 4 MiB");
}

const BEGINNING = /^-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----/gm;
const CERTIFICATE = /-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]*-----END (?:TRUSTED |X509 )?CERTIFICATE-----/g;

/** All certificates of a file, in its order. */
function certificates(option: string, path: string | undefined, text: string | undefined): X509Certificate[] {
  if (text === undefined) return [];
  const blocks = text.match(CERTIFICATE) ?? [];
  const expected = "a PEM file with at least one certificate (-----BEGIN CERTIFICATE-----), all of them whole";
  if (blocks.length === 0) throw invalid(option, `${path}, in which there is none`, expected);
  // A file that was cut off, while somebody wrote it say: the library would take what is before the cut without a word.
  if ((text.match(BEGINNING) ?? []).length > blocks.length)
    throw invalid(option, `${path}, in which one has no end`, expected);
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (cause) {
      throw invalid(option, `${path}, whose certificate ${index + 1} cannot be read`, expected, cause);
    }
  });
}

function keyOf(path: string | undefined, text: string | undefined): KeyObject | undefined {
  if (text === undefined) return undefined;
  try {
    return createPrivateKey(text);
  } catch (cause) {
    const expected = "a PEM file with a private key that has no passphrase (-----BEGIN PRIVATE KEY-----)";
    throw invalid("tls_key", `${path}, in which there is none`, expected, cause);
  }
}

/** Whatever the checks above let through has to please the library that will use it, too. */
function proveContext({ cert, ca }: TlsOptions, files: { cert?: string; key?: string; ca?: string }): void {
  try {
    createSecureContext(files);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const option = cert === undefined ? "tls_ca" : "tls_cert";
    throw invalid(option, `${cert ?? ca} (${why})`, "certificates and a key that TLS can use", cause);
  }
}

function invalid(option: string, received: string, expected: string, cause?: unknown): ConfigError {
  return new ConfigError("config-invalid-value", option, received, expected, cause);
}
