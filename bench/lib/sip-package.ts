/** The npm package `sip`, which brings no types: the part of it that is measured. */
import { createRequire } from "node:module";

/** A message of the package: header names in lower case, values already parsed. */
export interface SipPackageMessage {
  readonly method?: string;
  readonly headers: Record<string, unknown>;
}

export interface SipPackage {
  parse(text: string): SipPackageMessage | undefined;
  stringify(message: SipPackageMessage): string;
  makeResponse(request: SipPackageMessage, status: number, reason: string): SipPackageMessage;
  start(options: object, callback: (request: SipPackageMessage) => void): void;
  send(message: SipPackageMessage): void;
}

export const sipPackage = createRequire(import.meta.url)("sip") as SipPackage;
