/*
 * What the programs of this folder share: a clock, a histogram of latencies, options, socket addresses, datagrams that come in pieces.
 * They are compiled when a benchmark starts (bench/lib/compile.ts) and are no part of the product.
 */
#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static inline uint64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what) {
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* --name VALUE; the last one counts. */
static inline const char *option(int argc, char **argv, const char *name, const char *otherwise) {
	for (int i = 1; i + 1 < argc; i++)
		if (strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i] + 2, name) == 0) otherwise = argv[i + 1];
	return otherwise;
}

static inline double number(int argc, char **argv, const char *name, double otherwise) {
	const char *text = option(argc, argv, name, NULL);
	return text == NULL ? otherwise : atof(text);
}

/* IP:PORT */
static inline struct sockaddr_in address(const char *text) {
	struct sockaddr_in out = {.sin_family = AF_INET};
	char ip[64];
	const char *colon = strrchr(text, ':');
	if (colon == NULL || (size_t)(colon - text) >= sizeof ip) {
		fprintf(stderr, "%s: expected IP:PORT\n", text);
		exit(2);
	}
	memcpy(ip, text, (size_t)(colon - text));
	ip[colon - text] = 0;
	if (inet_pton(AF_INET, ip, &out.sin_addr) != 1) {
		fprintf(stderr, "%s: no IPv4 address\n", text);
		exit(2);
	}
	out.sin_port = htons((uint16_t)atoi(colon + 1));
	return out;
}

/* A burst of answers must fit: beyond the system's limit where we may, up to it where we may not. */
static inline void wide_buffers(int fd) {
	int bytes = 8 << 20;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

/*
 * What a sender has handed down in one call (UDP_SEGMENT) is taken as it comes, a piece (UDP_GRO): on a loopback the kernel would cut
 * it on the sender's processor, where no network does it. Who sends one by one is taken one by one.
 */
#define PIECES 64
#define PIECE 65536

typedef struct {
	char octets[PIECES][PIECE];
	struct sockaddr_in from[PIECES];
	struct mmsghdr messages[PIECES];
	struct iovec iov[PIECES];
	char control[PIECES][96] __attribute__((aligned(8)));
} inbox;

/* @returns how many pieces were there */
static inline int read_pieces(int fd, inbox *in) {
	for (int i = 0; i < PIECES; i++) {
		in->iov[i] = (struct iovec){in->octets[i], PIECE};
		in->messages[i].msg_hdr = (struct msghdr){.msg_name = &in->from[i], .msg_namelen = sizeof in->from[i], .msg_iov = &in->iov[i], .msg_iovlen = 1, .msg_control = in->control[i], .msg_controllen = sizeof in->control[i]};
	}
	return recvmmsg(fd, in->messages, PIECES, MSG_DONTWAIT, NULL);
}

/* @returns octets of each datagram in a piece; the last one may have fewer */
static inline size_t cut_of(struct mmsghdr *piece) {
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&piece->msg_hdr); c != NULL; c = CMSG_NXTHDR(&piece->msg_hdr, c)) {
		if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO) continue;
		int size;
		memcpy(&size, CMSG_DATA(c), sizeof size);
		return (size_t)size;
	}
	return piece->msg_len;
}

static inline void hex(char *to, uint64_t value, int digits) {
	static const char digit[] = "0123456789abcdef";
	for (int i = digits - 1; i >= 0; i--, value >>= 4) to[i] = digit[value & 15];
}

/* -1 where a character is no lower-case hexadecimal digit. */
static inline int64_t unhex(const char *from, int digits) {
	uint64_t value = 0;
	for (int i = 0; i < digits; i++) {
		char c = from[i];
		int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
		if (d < 0) return -1;
		value = value << 4 | (uint64_t)d;
	}
	return (int64_t)value;
}

/* Latencies in buckets that are less than 1 % wide. */
#define SUB 256
#define BUCKETS (SUB / 2 * 48)
typedef struct {
	uint64_t count[BUCKETS];
	uint64_t total, max;
} histogram;

static inline void note(histogram *h, uint64_t ns) {
	int shift = ns < SUB ? 0 : 63 - __builtin_clzll(ns) - 7;
	uint64_t bucket = ns < SUB ? ns : (uint64_t)shift * (SUB / 2) + (ns >> shift);
	h->count[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
	h->total++;
	if (ns > h->max) h->max = ns;
}

/* Nanoseconds that the given share of all stayed below: the upper end of the bucket. */
static inline uint64_t percentile(const histogram *h, double share) {
	uint64_t wanted = (uint64_t)(share * (double)h->total), seen = 0;
	for (uint64_t b = 0; b < BUCKETS; b++) {
		seen += h->count[b];
		if (seen <= wanted) continue;
		if (b < SUB) return b;
		uint64_t shift = b / (SUB / 2) - 1;
		uint64_t upper = ((b - shift * (SUB / 2)) + 1) << shift;
		return upper < h->max ? upper : h->max;
	}
	return h->max;
}

#endif
