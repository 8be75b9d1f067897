/** Statuses of a peer as they are spelled on the wire and in RPC (Kamailio 6.1 and later; dmq.md section 8). */
export type Status = "active" | "not_active" | "disabled";
