/*
 * The generator: KDMQ requests to one server, each with a branch and a Call-ID of its own, and the answers to them.
 *
 * Closed loop: --outstanding requests are under way at any time. Open loop: --rate requests a second leave when they are due,
 * whatever comes back, and a latency counts from when its request was due and not from when it got out.
 * An answer counts if its branch is that of a request under way and its status is 2xx; for one in 256 the other headers
 * that an answer repeats are looked at too. What has no answer after a second is lost,
 * and counts as one second in the latencies.
 *
 * It never sleeps: it has a core of its own, and `idle` says what share of the run it found nothing to do. At 0 it would be
 * the bottleneck.
 *
 *   load --to IP:PORT [--bind IP] [--transport udp|tcp|tls] [--connections N] [--outstanding N] [--rate N]
 *        [--seconds S | --count N] [--body OCTETS] [--channel NAME] [--channels N]
 */
#include "harness.h"
#include <sys/random.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

#define BATCH 64
#define RING 65536
#define DATAGRAM 66000
#define LOST_NS 1000000000ull
#define CONNECTIONS 64
#define STREAM (1 << 20)

static const char COOKIE[] = "branch=z9hG4bK";

/* Requests under way, by the low bits of their number; `at` is 0 where none is. */
static struct {
	uint32_t number;
	uint64_t at;
} ring[RING];

static uint32_t run_id, next_number;
static uint64_t sent, answered, ok, accepted, refused, stray, lost, bad;
static histogram latency;

/* The request as text, with the places of what differs from one to the next. */
static char request[DATAGRAM];
static size_t request_size, branch_at, call_id_at, channel_at[3];
static int channels;

typedef struct {
	int fd;
	char *in, *out;
	size_t held, out_at, out_size;
	uint64_t under_way;
#ifdef WITH_TLS
	SSL *ssl;
#endif
} connection;

static connection connections[CONNECTIONS];
static int connection_count = 1;

/* ---- requests -------------------------------------------------------------------------------------------------- */

static size_t put(size_t at, const char *text) {
	size_t size = strlen(text);
	memcpy(request + at, text, size);
	return at + size;
}

/* Kamailio's own order of headers. The channel is NAME with four digits, so that every request has the same size. */
static void write_template(const char *to, const char *own, const char *transport, const char *channel, int body) {
	char line[512], upper[8] = "UDP", parameter[32] = "";
	if (strcmp(transport, "udp") != 0) {
		snprintf(parameter, sizeof parameter, ";transport=%s", transport);
		for (int i = 0; i < 3; i++) upper[i] = (char)(transport[i] - 32);
	}
	size_t at = 0, name = strlen(channel);
	snprintf(line, sizeof line, "KDMQ sip:%s0000@%s%s SIP/2.0\r\n", channel, to, parameter);
	channel_at[0] = strlen("KDMQ sip:") + name, at = put(at, line);
	snprintf(line, sizeof line, "Via: SIP/2.0/%s %s;%s", upper, own, COOKIE);
	at = put(at, line), branch_at = at, at = put(at, "0000000000000000\r\n");
	channel_at[1] = at + strlen("To: <sip:") + name;
	snprintf(line, sizeof line, "To: <sip:%s0000@%s%s>\r\n", channel, to, parameter), at = put(at, line);
	channel_at[2] = at + strlen("From: <sip:") + name;
	snprintf(line, sizeof line, "From: <sip:%s0000@%s%s>;tag=%08x-0000\r\n", channel, own, parameter, run_id), at = put(at, line);
	at = put(at, "CSeq: 10 KDMQ\r\nCall-ID: "), call_id_at = at;
	snprintf(line, sizeof line, "0000000000000000@%.*s\r\n", (int)strcspn(own, ":"), own), at = put(at, line);
	snprintf(line, sizeof line, "Content-Length: %d\r\nUser-Agent: load\r\nMax-Forwards: 1\r\nContent-Type: text/plain\r\n\r\n", body);
	at = put(at, line);
	memset(request + at, 'x', (size_t)body);
	request_size = at + (size_t)body;
}

/* What is lost counts as a second in the latencies: a server must not look better for dropping what it is late with. */
static void lose(void) {
	lost++;
	note(&latency, LOST_NS);
}

/* Makes `to`, a copy of the template, the next request, which was due `at`. */
static void fill(char *to, uint64_t at) {
	uint32_t number = next_number++, slot = number % RING;
	if (ring[slot].at != 0) lose();
	ring[slot].number = number, ring[slot].at = at;
	uint64_t id = (uint64_t)run_id << 32 | number;
	hex(to + branch_at, id, 16), hex(to + call_id_at, id, 16);
	if (channels > 1)
		for (int i = 0, n = (int)(number % (uint32_t)channels), d = 3; i < 3; i++, n = (int)(number % (uint32_t)channels), d = 3)
			for (; d >= 0; d--, n /= 10) to[channel_at[i] + (size_t)d] = (char)('0' + n % 10);
	sent++;
}

static uint64_t under_way(void) { return sent - answered - lost; }

/* Gives up what was sent more than a second ago. */
static void expire(uint64_t now) {
	for (int i = 0; i < RING; i++)
		if (ring[i].at != 0 && ring[i].at + LOST_NS < now) ring[i].at = 0, lose();
}

/* ---- answers --------------------------------------------------------------------------------------------------- */

/* Whether an answer repeats what RFC 3261 8.2.6.2 asks for; `id` is the 16 digits of its branch. */
static int is_whole(const char *text, size_t size, const char *id) {
	char call_id[17];
	memcpy(call_id, id, 16), call_id[16] = '@';
	return memmem(text, size, call_id, 17) != NULL && memmem(text, size, "CSeq: 10 KDMQ\r\n", 15) != NULL &&
		memmem(text, size, "\r\nFrom: ", 8) != NULL && memmem(text, size, "\r\nTo: ", 6) != NULL;
}

static void take(const char *text, size_t size, uint64_t now) {
	const char *branch = memmem(text, size < 512 ? size : 512, COOKIE, sizeof COOKIE - 1);
	int64_t run = -1, number = -1;
	if (branch != NULL && branch + sizeof COOKIE - 1 + 16 < text + size) {
		run = unhex(branch + sizeof COOKIE - 1, 8);
		number = unhex(branch + sizeof COOKIE - 1 + 8, 8);
	}
	uint32_t slot = (uint32_t)number % RING;
	if (run != run_id || number < 0 || ring[slot].at == 0 || ring[slot].number != (uint32_t)number) {
		stray++;
		return;
	}
	if (number % 256 == 0 && !is_whole(text, size, branch + sizeof COOKIE - 1)) bad++;
	note(&latency, now > ring[slot].at ? now - ring[slot].at : 0);
	ring[slot].at = 0;
	answered++;
	if (size > 12 && memcmp(text, "SIP/2.0 200", 11) == 0) ok++;
	else if (size > 12 && memcmp(text, "SIP/2.0 2", 9) == 0) accepted++;
	else refused++;
}

/* ---- datagrams ------------------------------------------------------------------------------------------------- */

static char tx[DATAGRAM];

/* Requests that fit one call. */
static int batch(void) {
	size_t n = 65000 / request_size;
	return n < 1 ? 1 : n > BATCH ? BATCH : (int)n;
}

static int receive_datagrams(int fd) {
	static inbox in;
	int pieces = read_pieces(fd, &in), n = 0;
	uint64_t now = now_ns();
	for (int i = 0; i < pieces; i++) {
		size_t size = in.messages[i].msg_len, cut = cut_of(&in.messages[i]);
		for (size_t at = 0; at < size; at += cut, n++) take(in.octets[i] + at, size - at < cut ? size - at : cut, now);
	}
	return n;
}

/*
 * Sends `wanted` requests, the first of which was due at `due` and the others `gap` apart; `due` 0 means now. They go down in
 * one call that the kernel cuts into datagrams (UDP_SEGMENT), at a sixth of the price of sendmmsg: what comes out on the
 * other side is the same. An older kernel gets one call each.
 */
static void send_datagrams(int fd, int wanted, uint64_t due, double gap) {
	static int is_cut = -1;
	int size = (int)request_size;
	if (is_cut < 0) {
		is_cut = setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size) == 0;
		for (int i = 0; i < batch(); i++) memcpy(tx + request_size * (size_t)i, request, request_size);
	}
	uint64_t now = due == 0 ? now_ns() : 0;
	for (int i = 0; i < wanted; i++) fill(tx + size * i, due == 0 ? now : due + (uint64_t)(gap * i));
	for (int done = 0, tries = 0; done < wanted && tries < 1000; tries++) {
		int n = is_cut ? wanted - done : 1;
		if (send(fd, tx + size * done, (size_t)(size * n), 0) > 0) done += n;
		else if (errno == ECONNREFUSED && tries > 100) die("the server is not there");
	}
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

static ssize_t stream_read(connection *c, char *to, size_t room) {
#ifdef WITH_TLS
	if (c->ssl != NULL) {
		int n = SSL_read(c->ssl, to, (int)room);
		if (n > 0) return n;
		int error = SSL_get_error(c->ssl, n);
		ERR_clear_error();
		return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? -1 : 0;
	}
#endif
	ssize_t n = recv(c->fd, to, room, MSG_DONTWAIT);
	return n < 0 && errno != EAGAIN && errno != EINTR ? 0 : n;
}

static ssize_t stream_write(connection *c, const char *from, size_t size) {
#ifdef WITH_TLS
	if (c->ssl != NULL) {
		int n = SSL_write(c->ssl, from, (int)size);
		ERR_clear_error();
		return n;
	}
#endif
	return send(c->fd, from, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Octets of the first answer in a chunk, 0 if it is not whole yet. */
static size_t whole_answer(const char *text, size_t size) {
	const char *end = memmem(text, size, "\r\n\r\n", 4);
	if (end == NULL) return 0;
	const char *length = memmem(text, (size_t)(end - text), "\r\nContent-Length:", 17);
	size_t whole = (size_t)(end - text) + 4 + (length == NULL ? 0 : (size_t)atoi(length + 17));
	return whole <= size ? whole : 0;
}

static int receive_stream(connection *c) {
	ssize_t n = stream_read(c, c->in + c->held, STREAM - c->held);
	if (n < 0) return 0;
	if (n == 0) {
		fprintf(stderr, "the server closed a connection\n");
		exit(1);
	}
	c->held += (size_t)n;
	size_t at = 0;
	uint64_t now = now_ns();
	for (size_t size; (size = whole_answer(c->in + at, c->held - at)) > 0; at += size) {
		uint64_t before = answered;
		take(c->in + at, size, now);
		c->under_way -= answered - before;
	}
	memmove(c->in, c->in + at, c->held - at);
	c->held -= at;
	return 1;
}

static void flush(connection *c) {
	while (c->out_at < c->out_size) {
		ssize_t n = stream_write(c, c->out + c->out_at, c->out_size - c->out_at);
		if (n <= 0) return;
		c->out_at += (size_t)n;
	}
	c->out_at = c->out_size = 0;
}

static void send_stream(connection *c, int wanted, uint64_t due, double gap) {
	uint64_t now = due == 0 ? now_ns() : 0;
	for (int i = 0; i < wanted && c->out_size + request_size <= STREAM; i++) {
		char *to = c->out + c->out_size;
		memcpy(to, request, request_size);
		fill(to, due == 0 ? now : due + (uint64_t)(gap * i));
		c->out_size += request_size, c->under_way++;
	}
	flush(c);
}

#ifdef WITH_TLS
/* TLS 1.3 with one suite, so that every server does the same arithmetic. */
static void handshake(connection *c) {
	static SSL_CTX *context;
	if (context == NULL) {
		context = SSL_CTX_new(TLS_client_method());
		SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
		SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
		SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	}
	c->ssl = SSL_new(context);
	SSL_set_fd(c->ssl, c->fd);
	if (SSL_connect(c->ssl) != 1) {
		ERR_print_errors_fp(stderr);
		exit(1);
	}
}
#endif

static void connect_stream(connection *c, struct sockaddr_in *own, struct sockaddr_in *to, int is_tls) {
	int one = 1;
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(c->fd, (struct sockaddr *)own, sizeof *own) != 0) die("bind");
	if (connect(c->fd, (struct sockaddr *)to, sizeof *to) != 0) die("connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	c->in = malloc(STREAM), c->out = malloc(STREAM);
#ifdef WITH_TLS
	if (is_tls) handshake(c);
#else
	if (is_tls) {
		fprintf(stderr, "built without TLS\n");
		exit(2);
	}
#endif
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

/* ---- the run --------------------------------------------------------------------------------------------------- */

typedef struct {
	int is_udp, outstanding;
	double rate, seconds;
	uint64_t count;
} plan;

/* How many requests may leave now, at most a batch. */
static int wanted(const plan *p, uint64_t elapsed, uint64_t mine, uint64_t share) {
	uint64_t n;
	if (p->rate > 0) {
		uint64_t due = (uint64_t)(p->rate * (double)elapsed / 1e9);
		n = due > sent ? due - sent : 0;
		if (n + under_way() > RING / 2) n = 0;
	} else {
		n = mine < share ? share - mine : 0;
	}
	if (p->count > 0 && n > p->count - sent) n = p->count - sent;
	return n > (uint64_t)batch() ? batch() : (int)n;
}

/* @returns nanoseconds without anything to do */
static uint64_t run(const plan *p, uint64_t start) {
	uint64_t idle = 0, expired = start, end = start + (uint64_t)(p->seconds * 1e9);
	double gap = p->rate > 0 ? 1e9 / p->rate : 0;
	for (int turn = 0;; turn = (turn + 1) % connection_count) {
		connection *c = &connections[turn];
		uint64_t now = now_ns(), share = (uint64_t)p->outstanding / (uint64_t)connection_count;
		if (now >= end || (p->count > 0 && answered + lost >= p->count)) return idle;
		if (now - expired > LOST_NS / 4) expire(now), expired = now;
		int got = p->is_udp ? receive_datagrams(c->fd) : receive_stream(c);
		int n = wanted(p, now - start, p->is_udp ? under_way() : c->under_way, share > 0 ? share : 1);
		uint64_t due = p->rate > 0 ? start + (uint64_t)(gap * (double)(sent + 1)) : 0;
		if (!p->is_udp) flush(c);
		if (n > 0 && p->is_udp) send_datagrams(c->fd, n, due, gap);
		else if (n > 0 && c->out_size == 0) send_stream(c, n, due, gap);
		if (got == 0 && n == 0) idle += now_ns() - now;
	}
}

/* Takes what is still on its way, 300 ms at most. */
static void settle(const plan *p) {
	for (uint64_t end = now_ns() + 300000000ull; under_way() > 0 && now_ns() < end;)
		for (int i = 0; i < connection_count; i++) {
			if (p->is_udp) receive_datagrams(connections[i].fd);
			else flush(&connections[i]), receive_stream(&connections[i]);
		}
	while (under_way() > 0) lose();
}

static void report(uint64_t in_time, double seconds, uint64_t idle) {
	printf("{\"sent\":%lu,\"answered\":%lu,\"inTime\":%lu,\"ok\":%lu,\"accepted\":%lu,\"refused\":%lu,\"stray\":%lu,\"lost\":%lu,\"bad\":%lu,",
		sent, answered, in_time, ok, accepted, refused, stray, lost, bad);
	printf("\"seconds\":%.6f,\"rate\":%.1f,\"idle\":%.4f,\"size\":%zu,", seconds, (double)in_time / seconds, (double)idle / 1e9 / seconds, request_size);
	printf("\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f}\n", (double)percentile(&latency, 0.5) / 1e3,
		(double)percentile(&latency, 0.99) / 1e3, (double)percentile(&latency, 0.999) / 1e3, (double)latency.max / 1e3);
}

int main(int argc, char **argv) {
	const char *to_text = option(argc, argv, "to", "127.0.0.1:5060"), *transport = option(argc, argv, "transport", "udp");
	char own_text[64];
	snprintf(own_text, sizeof own_text, "%s:0", option(argc, argv, "bind", "127.0.0.1"));
	struct sockaddr_in to = address(to_text), own = address(own_text);
	plan p = {
		.is_udp = strcmp(transport, "udp") == 0,
		.outstanding = (int)number(argc, argv, "outstanding", 64),
		.rate = number(argc, argv, "rate", 0),
		.seconds = number(argc, argv, "seconds", 3),
		.count = (uint64_t)number(argc, argv, "count", 0),
	};
	if (getrandom(&run_id, sizeof run_id, 0) != sizeof run_id) die("getrandom");
	channels = (int)number(argc, argv, "channels", 1);
	if (p.is_udp) {
		int one = 1, fd = connections[0].fd = socket(AF_INET, SOCK_DGRAM, 0);
		wide_buffers(fd);
		setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
		if (bind(fd, (struct sockaddr *)&own, sizeof own) != 0) die("bind");
		if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) die("connect");
	} else {
		connection_count = (int)number(argc, argv, "connections", 1);
		if (connection_count > CONNECTIONS) connection_count = CONNECTIONS;
		for (int i = 0; i < connection_count; i++) connect_stream(&connections[i], &own, &to, strcmp(transport, "tls") == 0);
	}
	socklen_t size = sizeof own;
	getsockname(connections[0].fd, (struct sockaddr *)&own, &size);
	snprintf(own_text, sizeof own_text, "%s:%d", option(argc, argv, "bind", "127.0.0.1"), ntohs(own.sin_port));
	write_template(to_text, own_text, transport, option(argc, argv, "channel", "bench"), (int)number(argc, argv, "body", 100));
	uint64_t start = now_ns(), idle = run(&p, start), in_time = answered;
	double seconds = (double)(now_ns() - start) / 1e9;
	settle(&p);
	report(in_time, seconds, idle);
	return 0;
}
