/**
 * The library: a DMQ node inside another program. This list is the public surface, name by name; docs/LIBRARY.md shows it
 * at work.
 */
export type { Handler, HandlerContext, HandlerResult } from "./channel/channel.ts";
export type { Route, RouteOptions } from "./channel/router.ts";
export type { Endpoint, Transport } from "./core/endpoint.ts";
export {
  ConfigError,
  DmqError,
  type ErrorCode,
  ProtocolError,
  RpcError,
  TransportError,
  UsageError,
} from "./core/errors.ts";
export { type CreateNodeOptions, createNode, type Following, type RunningNode } from "./daemon/driver.ts";

export type {
  Answer,
  ChannelMessage,
  HandlerMode,
  IncomingRequest,
  NodeCounters,
  NodeEvent,
  Outcome,
  OutcomeReport,
  PeerInfo,
  Status,
  WarningCode,
} from "./node/io.ts";
export type { ReplicateOptions, SendOptions } from "./node/node.ts";
