/*
 * Any number of fake peers in one process: addresses of 127.0.0.0/8 behind one UDP socket, each a node of the bus to whoever
 * is told of it. A notification is answered with 200 and the peer's own line, a message on any other channel with an empty
 * 200 at once. Requests are counted, and those that came before (a retransmission) apart.
 *
 * Answers of one batch that leave the same peer with the same size go down in one call (UDP_SEGMENT), so that the peers
 * stay cheaper than any sender; they take what comes in pieces, too (harness.h).
 *
 *   peers --count N --port PORT [--first 127.0.1.1] [--silent CHANNEL]
 *
 * Commands, a line each on stdin; the end of stdin is the end of the process:
 *   join IP:PORT             each peer announces itself there until it was answered and pinged, or `stop`
 *   trigger IP:PORT N BODY   keeps N MESSAGE requests under way there, for a sender whose script broadcasts on each
 *   stop                     ends the join and the trigger
 *   stats                    prints the counters as JSON; the share of idle time is that since the last one
 */
#include "harness.h"

#define PEERS 1000
#define DATAGRAM 4096
/* UDP_MAX_SEGMENTS of Linux before 6.9. */
#define SEGMENTS 64
#define SEEN (1 << 20)
#define JOIN_NS 200000000ull
#define POLL_NS 2000000ull
#define QUIET_NS 20000000ull
#define TRIGGER_LOST_NS 1000000000ull

typedef struct {
	struct in_addr ip;
	char text[16];
	/* It was answered; it was pinged too, which a Kamailio does late and we need not wait for. */
	int is_joined, is_pinged;
	/* Answers that wait for the end of the batch. */
	char *out;
	size_t used, size;
	int waiting;
	struct sockaddr_in to;
} peer;

static peer peers[PEERS];
static int fd, count, port;
static const char *silent = "";
static uint32_t first_ip, serial;
static uint64_t seen[SEEN], received, repeated, notifications, kept_silent, joined, triggers, triggered, stray, idle_ns;

/* The present trigger and join. */
static struct sockaddr_in sender;
static char sender_text[64];
static int trigger_limit, trigger_under_way, is_joining;
static uint64_t trigger_last;
static char body[DATAGRAM];
static int body_size;

/* ---- sending --------------------------------------------------------------------------------------------------- */

/* Sends `size` octets from a peer's address; `segment` is not 0 where the kernel has to cut them into datagrams. */
static void send_from(peer *p, const struct sockaddr_in *to, const char *bytes, size_t size, size_t segment) {
	union {
		char bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(uint16_t))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {(void *)bytes, size};
	struct msghdr message = {.msg_name = (void *)to, .msg_namelen = sizeof *to, .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	struct in_pktinfo from = {.ipi_spec_dst = p->ip};
	c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof from);
	memcpy(CMSG_DATA(c), &from, sizeof from);
	if (segment != 0) {
		uint16_t cut = (uint16_t)segment;
		c = CMSG_NXTHDR(&message, c);
		c->cmsg_level = IPPROTO_UDP, c->cmsg_type = UDP_SEGMENT, c->cmsg_len = CMSG_LEN(sizeof cut);
		memcpy(CMSG_DATA(c), &cut, sizeof cut);
	} else {
		message.msg_controllen = CMSG_SPACE(sizeof from);
	}
	for (int tries = 0; tries < 100 && sendmsg(fd, &message, 0) < 0; tries++)
		if (errno != ECONNREFUSED && errno != EINTR && errno != EAGAIN) return;
}

static void flush(peer *p) {
	if (p->used > 0) send_from(p, &p->to, p->out, p->used, p->used > p->size ? p->size : 0);
	p->used = 0, p->waiting = 0;
}

/* Joins an answer to those of its peer that wait, if it has their size and their destination. */
static void queue(peer *p, const struct sockaddr_in *to, const char *bytes, size_t size) {
	int is_other = p->used > 0 && (size != p->size || to->sin_port != p->to.sin_port || to->sin_addr.s_addr != p->to.sin_addr.s_addr);
	if (is_other || p->waiting == SEGMENTS || p->used + size > 60000) flush(p);
	memcpy(p->out + p->used, bytes, size);
	p->used += size, p->size = size, p->to = *to, p->waiting++;
}

/* Sixteen at a time, in turn: a Kamailio that knows more than some 28 nodes takes a new one in and answers it nothing. */
static void join_some(void) {
	static int next;
	char text[DATAGRAM], line[128];
	for (int tried = 0, sent = 0; tried < count && sent < 16; tried++) {
		int i = next++ % count;
		peer *p = &peers[i];
		if (p->is_joined && p->is_pinged) continue;
		serial++;
		int lines = snprintf(line, sizeof line, "sip:%s:%d;status=active\r\n", p->text, port);
		int n = snprintf(text, sizeof text,
			"KDMQ sip:notification_peer@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s:%d;branch=z9hG4bKjoin%08x%04x\r\n"
			"To: <sip:notification_peer@%s>\r\nFrom: <sip:notification_peer@%s:%d>;tag=%x\r\nCSeq: 10 KDMQ\r\nCall-ID: join%08x@%s\r\n"
			"Content-Length: %d\r\nUser-Agent: peers\r\nMax-Forwards: 1\r\nContent-Type: text/plain\r\n\r\n%s",
			sender_text, p->text, port, serial, i, sender_text, p->text, port, serial, serial, p->text, lines, line);
		send_from(p, &sender, text, (size_t)n, 0);
		sent++;
	}
}

static void send_trigger(void) {
	char text[2 * DATAGRAM];
	serial++;
	int n = snprintf(text, sizeof text,
		"MESSAGE sip:bcast@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s:%d;branch=z9hG4bKfire%08x\r\nTo: <sip:bcast@%s>\r\n"
		"From: <sip:trigger@%s:%d>;tag=%x\r\nCSeq: 1 MESSAGE\r\nCall-ID: fire%08x@%s\r\nMax-Forwards: 10\r\n"
		"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%.*s",
		sender_text, peers[0].text, port, serial, sender_text, peers[0].text, port, serial, serial, peers[0].text, body_size, body_size, body);
	send_from(&peers[0], &sender, text, (size_t)n, 0);
	triggers++, trigger_under_way++;
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

/* Headers are read line by line, in whatever order the sender has them; full names only, as every sender here writes. */
typedef struct {
	const char *from[5];
	size_t size[5];
	const char *branch;
} copied;

enum { VIA, TO, FROM, CALL_ID, CSEQ };

static void read_headers(const char *text, size_t size, copied *out) {
	static const struct {
		const char *name;
		size_t size;
	} names[5] = {{"Via:", 4}, {"To:", 3}, {"From:", 5}, {"Call-ID:", 8}, {"CSeq:", 5}};
	const char *end = text + size, *at = memchr(text, '\n', size);
	memset(out, 0, sizeof *out);
	while (at != NULL && ++at < end && *at != '\r') {
		const char *next = memchr(at, '\n', (size_t)(end - at));
		if (next == NULL) return;
		for (int i = 0; i < 5; i++) {
			if (out->from[i] != NULL || at[0] != names[i].name[0] || memcmp(at, names[i].name, names[i].size) != 0) continue;
			out->from[i] = at, out->size[i] = (size_t)(next - at) + 1;
			break;
		}
		at = next;
	}
	if (out->from[VIA] != NULL) out->branch = memmem(out->from[VIA], out->size[VIA], "branch=", 7);
}

/* @returns whether a request with this branch came before, among the last million or so */
static int is_repeated(const copied *request, const struct in_addr *to) {
	uint64_t h = 0xcbf29ce484222325ull ^ to->s_addr;
	const char *end = request->from[VIA] + request->size[VIA];
	for (const char *at = request->branch; at < end; at++) h = (h ^ (uint8_t)*at) * 0x100000001b3ull;
	uint64_t *slot = &seen[h >> 44];
	if (*slot == h) return 1;
	*slot = h;
	return 0;
}

static size_t append(char *to, size_t at, const char *from, size_t size) {
	memcpy(to + at, from, size);
	return at + size;
}

static size_t write_answer(char *to, const copied *request, const peer *p, int is_notification) {
	static const char head[] = "SIP/2.0 200 OK\r\n", tag[] = ";tag=peer\r\n", empty[] = "Content-Length: 0\r\n\r\n";
	size_t at = append(to, 0, head, sizeof head - 1);
	for (int i = 0; i < 5; i++) {
		/* Without its line end To gets our tag: no sender here gives it one. */
		at = append(to, at, request->from[i], request->size[i] - (i == TO ? 2 : 0));
		if (i == TO) at = append(to, at, tag, sizeof tag - 1);
	}
	if (!is_notification) return append(to, at, empty, sizeof empty - 1);
	char line[128];
	int lines = snprintf(line, sizeof line, "sip:%s:%d;status=active\r\n", p->text, port);
	return at + (size_t)snprintf(to + at, 512, "Server: peers\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", lines, line);
}

static void take_request(peer *p, const struct sockaddr_in *from, const char *text, size_t size) {
	static const char notification[] = "KDMQ sip:notification_peer@";
	copied request;
	char answer[2 * DATAGRAM];
	if (memcmp(text, "KDMQ sip:", 9) != 0) {
		stray++;
		return;
	}
	if (silent[0] != 0 && strncmp(text + 9, silent, strlen(silent)) == 0) {
		kept_silent++;
		return;
	}
	read_headers(text, size, &request);
	for (int i = 0; i < 5; i++)
		if (request.from[i] == NULL || request.branch == NULL) {
			stray++;
			return;
		}
	int is_notification = memcmp(text, notification, sizeof notification - 1) == 0;
	if (is_notification) notifications++, p->is_pinged = 1;
	else if (is_repeated(&request, &p->ip)) repeated++;
	else received++;
	queue(p, from, answer, write_answer(answer, &request, p, is_notification));
}

static void take_response(peer *p, const char *text, size_t size) {
	if (memmem(text, size, "branch=z9hG4bKfire", 18) != NULL) {
		trigger_under_way--;
		if (memcmp(text + 8, "200", 3) == 0) triggered++;
		trigger_last = now_ns();
	} else if (memmem(text, size, "branch=z9hG4bKjoin", 18) != NULL) {
		if (memcmp(text + 8, "200", 3) == 0 && !p->is_joined) p->is_joined = 1, joined++;
	} else {
		stray++;
	}
}

static void take(peer *p, const struct sockaddr_in *from, const char *text, size_t size) {
	if (size < 16) return;
	if (memcmp(text, "SIP/2.0 ", 8) == 0) take_response(p, text, size);
	else take_request(p, from, text, size);
}

/* @returns the peer that a piece is for, NULL for none */
static peer *receiver(struct msghdr *message) {
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_PKTINFO) continue;
		struct in_pktinfo to;
		memcpy(&to, CMSG_DATA(c), sizeof to);
		uint32_t index = ntohl(to.ipi_addr.s_addr) - first_ip;
		return index < (uint32_t)count ? &peers[index] : NULL;
	}
	return NULL;
}

static int receive(void) {
	static inbox in;
	int n = read_pieces(fd, &in);
	for (int i = 0; i < n; i++) {
		size_t size = in.messages[i].msg_len, cut = cut_of(&in.messages[i]);
		peer *p = receiver(&in.messages[i].msg_hdr);
		for (size_t at = 0; p != NULL && at < size; at += cut) take(p, &in.from[i], in.octets[i] + at, size - at < cut ? size - at : cut);
	}
	if (n > 0)
		for (int i = 0; i < count; i++) flush(&peers[i]);
	return n;
}

/* ---- commands -------------------------------------------------------------------------------------------------- */

static void aim(const char *text) {
	sender = address(text);
	snprintf(sender_text, sizeof sender_text, "%s", text);
}

static void print_stats(void) {
	static uint64_t since;
	uint64_t now = now_ns();
	double passed = since == 0 ? 0 : (double)(now - since);
	printf("{\"received\":%lu,\"repeated\":%lu,\"notifications\":%lu,\"silent\":%lu,\"joined\":%lu,\"triggers\":%lu,\"triggered\":%lu,\"stray\":%lu,\"idle\":%.4f}\n",
		received, repeated, notifications, kept_silent, joined, triggers, triggered, stray, passed > 0 ? (double)idle_ns / passed : 0);
	fflush(stdout);
	since = now, idle_ns = 0;
}

static void obey(char *line) {
	char where[64];
	int limit, size;
	if (sscanf(line, "join %63s", where) == 1) {
		aim(where);
		joined = 0, is_joining = 1;
		for (int i = 0; i < count; i++) peers[i].is_joined = peers[i].is_pinged = 0;
	} else if (sscanf(line, "trigger %63s %d %d", where, &limit, &size) == 3) {
		aim(where);
		body_size = size < DATAGRAM ? size : DATAGRAM;
		memset(body, 'x', (size_t)body_size);
		trigger_limit = limit, trigger_under_way = 0, trigger_last = now_ns(), is_joining = 0;
	} else if (strncmp(line, "stop", 4) == 0) {
		trigger_limit = 0, is_joining = 0;
	} else if (strncmp(line, "stats", 5) == 0) {
		print_stats();
	}
}

/* Waits for stdin up to `ms`, or for datagrams too where that is not 0. */
static void listen_to_stdin(int ms) {
	static char held[512];
	static size_t used;
	struct pollfd wait[2] = {{.fd = 0, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	if (poll(wait, ms > 0 ? 2 : 1, ms) <= 0 || wait[0].revents == 0) return;
	ssize_t n = read(0, held + used, sizeof held - 1 - used);
	if (n <= 0) exit(0);
	used += (size_t)n;
	for (char *end; (end = memchr(held, '\n', used)) != NULL;) {
		*end = 0;
		obey(held);
		used -= (size_t)(end - held) + 1;
		memmove(held, end + 1, used);
	}
}

/* While there is traffic it does not sleep; a wake-up would cost the sender's core more than the answer. */
static void run(void) {
	uint64_t polled = 0, asked = 0, busy = now_ns();
	for (;;) {
		uint64_t now = now_ns();
		if (is_joining && now - asked > (joined > 0 ? JOIN_NS / 20 : JOIN_NS)) join_some(), asked = now;
		if (trigger_under_way > 0 && now - trigger_last > TRIGGER_LOST_NS) trigger_under_way = 0, trigger_last = now;
		while (trigger_under_way < trigger_limit) send_trigger();
		int n = receive();
		if (n > 0) busy = now;
		else idle_ns += now_ns() - now;
		if (now - polled > POLL_NS) {
			listen_to_stdin(now - busy > QUIET_NS ? 2 : 0);
			polled = now;
		}
	}
}

int main(int argc, char **argv) {
	struct sockaddr_in any = {.sin_family = AF_INET};
	int one = 1;
	count = (int)number(argc, argv, "count", 1), port = (int)number(argc, argv, "port", 5080);
	silent = option(argc, argv, "silent", "");
	if (count < 1 || count > PEERS) count = PEERS;
	struct in_addr first;
	inet_pton(AF_INET, option(argc, argv, "first", "127.0.1.1"), &first);
	first_ip = ntohl(first.s_addr);
	for (int i = 0; i < count; i++) {
		peers[i].ip.s_addr = htonl(first_ip + (uint32_t)i);
		inet_ntop(AF_INET, &peers[i].ip, peers[i].text, sizeof peers[i].text);
		peers[i].out = malloc(65536);
	}
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	wide_buffers(fd);
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
	setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
	any.sin_port = htons((uint16_t)port);
	if (bind(fd, (struct sockaddr *)&any, sizeof any) != 0) die("bind");
	srandom((unsigned)(now_ns() ^ (uint64_t)getpid()));
	serial = (uint32_t)random() << 8;
	puts("ready");
	fflush(stdout);
	run();
}
