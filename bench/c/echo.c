/*
 * The limit: the least that a program can do and still be matched. It answers every request of load.c with a 200, whose Via,
 * To, From, CSeq and Call-ID lines are one span of the request at an offset that is learned from the first one. Nothing is
 * parsed after that, nothing is copied, nothing is remembered.
 *
 *   echo --listen IP:PORT [--transport udp|tcp]
 */
#include "harness.h"

#define BATCH 64
#define DATAGRAM 4096

static const char HEAD[] = "SIP/2.0 200 OK\r\n";
static const char TAIL[] = "Content-Length: 0\r\n\r\n";

/* Where the span stands in each request of this run. */
static size_t span_start, span_end, request_size;

static void learn(const char *request, size_t size) {
	const char *via = memmem(request, size, "Via:", 4);
	const char *end = memmem(request, size, "Content-Length:", 15);
	const char *body = memmem(request, size, "\r\n\r\n", 4);
	if (via == NULL || end == NULL || body == NULL) {
		fprintf(stderr, "not a request of load.c\n");
		exit(1);
	}
	span_start = (size_t)(via - request);
	span_end = (size_t)(end - request);
	request_size = (size_t)(body - request) + 4 + (size_t)atoi(end + 15);
}

static void serve_udp(int fd) {
	static char rx[BATCH][DATAGRAM];
	static struct mmsghdr in[BATCH], out[BATCH];
	static struct iovec in_iov[BATCH], out_iov[BATCH][3];
	static struct sockaddr_in from[BATCH];
	for (int i = 0; i < BATCH; i++) {
		in_iov[i] = (struct iovec){rx[i], DATAGRAM};
		in[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &in_iov[i], .msg_iovlen = 1};
		out_iov[i][0] = (struct iovec){(void *)HEAD, sizeof HEAD - 1};
		out_iov[i][2] = (struct iovec){(void *)TAIL, sizeof TAIL - 1};
		out[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = out_iov[i], .msg_iovlen = 3};
	}
	for (;;) {
		int n = recvmmsg(fd, in, BATCH, MSG_WAITFORONE, NULL);
		if (n < 0 && (errno == EINTR || errno == ECONNREFUSED)) continue;
		if (n < 0) die("recvmmsg");
		for (int i = 0; i < n; i++) {
			/* A run with another size of body is another layout. */
			if (in[i].msg_len != request_size) learn(rx[i], in[i].msg_len);
			out_iov[i][1] = (struct iovec){rx[i] + span_start, span_end - span_start};
		}
		for (int sent = 0; sent < n;) {
			int k = sendmmsg(fd, out + sent, (unsigned)(n - sent), 0);
			if (k > 0) sent += k;
			else if (errno != EINTR && errno != ECONNREFUSED) die("sendmmsg");
		}
	}
}

#define STREAM (1 << 20)
static char stream_in[STREAM], stream_out[STREAM];

static void send_all(int fd, const char *bytes, size_t size) {
	for (size_t sent = 0; sent < size;) {
		ssize_t n = send(fd, bytes + sent, size - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR) continue;
		if (n < 0) return;
		sent += (size_t)n;
	}
}

/* Answers what is whole in a chunk. @returns octets of it that were used */
static size_t answer_chunk(int fd, const char *bytes, size_t size) {
	size_t at = 0, out = 0;
	if (request_size == 0 && size > 0) learn(bytes, size);
	while (size - at >= request_size) {
		memcpy(stream_out + out, HEAD, sizeof HEAD - 1), out += sizeof HEAD - 1;
		memcpy(stream_out + out, bytes + at + span_start, span_end - span_start), out += span_end - span_start;
		memcpy(stream_out + out, TAIL, sizeof TAIL - 1), out += sizeof TAIL - 1;
		at += request_size;
		if (out < STREAM - DATAGRAM) continue;
		send_all(fd, stream_out, out);
		out = 0;
	}
	send_all(fd, stream_out, out);
	return at;
}

/* One connection after the other is enough: load.c has one open to us. */
static void serve_tcp(int listener) {
	for (;;) {
		int fd = accept(listener, NULL, NULL), one = 1;
		if (fd < 0) continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		request_size = 0;
		for (size_t held = 0;;) {
			ssize_t n = recv(fd, stream_in + held, STREAM - held, 0);
			if (n < 0 && errno == EINTR) continue;
			if (n <= 0) break;
			held += (size_t)n;
			size_t used = answer_chunk(fd, stream_in, held);
			memmove(stream_in, stream_in + used, held - used);
			held -= used;
		}
		close(fd);
	}
}

int main(int argc, char **argv) {
	struct sockaddr_in at = address(option(argc, argv, "listen", "127.0.0.1:0"));
	int is_tcp = strcmp(option(argc, argv, "transport", "udp"), "tcp") == 0, one = 1;
	int fd = socket(AF_INET, is_tcp ? SOCK_STREAM : SOCK_DGRAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0) die("bind");
	puts("ready");
	fflush(stdout);
	if (!is_tcp) serve_udp(fd);
	if (listen(fd, 16) != 0) die("listen");
	serve_tcp(fd);
}
