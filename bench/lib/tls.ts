/** One certificate for all servers of a TLS benchmark: ECDSA on P-256, as `openssl` makes it in a moment. */
import { join } from "node:path";
import { hasOpenSsl, workDirectory } from "./compile.ts";

/** Paths of PEM files. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** @returns why there is no TLS here, `undefined` if there is */
export function tlsProblem(): string | undefined {
  if (!hasOpenSsl()) return "the headers of OpenSSL are missing: the generator has no TLS";
  return Bun.which("openssl") === null ? "not installed: openssl" : undefined;
}

export function makeCertificate(): Certificate {
  const made = { cert: join(workDirectory(), "cert.pem"), key: join(workDirectory(), "key.pem") };
  const done = Bun.spawnSync(
    [
      ...["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
      ...["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
      ...["-keyout", made.key, "-out", made.cert],
    ],
    { stdout: "ignore", stderr: "pipe" },
  );
  if (!done.success) throw new Error(`openssl: ${done.stderr.toString()}`);
  return made;
}
