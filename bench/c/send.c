/*
 * The least that a program can do that sends to peers.c: messages of one shape to one peer after the other, the next when an answer
 * has come, with the same calls as the node (docs/decisions/0012-mmsg.md). What goes to one peer in one call is cut by the kernel
 * (UDP_SEGMENT), answers come in pieces (UDP_GRO). It keeps a socket address of each peer, reads no answer and repeats nothing. What
 * it takes more for many peers than for few, any node takes more.
 *
 *   send --count N --port PORT [--first 127.0.1.1]
 *
 * Commands, a line each on stdin; the end of stdin is the end of the process:
 *   send SECONDS UNDER_WAY   prints {"delivered":N}
 */
#include "harness.h"
#include <sys/epoll.h>

#define PEERS 1000
#define UNDER_WAY 64
#define MESSAGE 1024
#define LOST_NS 1000000000ull

static struct sockaddr_in peers[PEERS];
static char names[PEERS][16];
static int fd, waiter, count, port, own_port;
static uint64_t serial;

/* What goes to one peer in one call. */
typedef struct {
	char octets[UNDER_WAY * MESSAGE];
	struct iovec iov;
	char control[CMSG_SPACE(sizeof(uint16_t))] __attribute__((aligned(8)));
	int messages, size;
} piece;

static piece pieces[UNDER_WAY];
static struct mmsghdr out[UNDER_WAY];

static int write_message(char *to, int i) {
	serial++;
	return snprintf(to, MESSAGE,
		"KDMQ sip:bench0000@%s:%d SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:%d;branch=z9hG4bK%016lx\r\nMax-Forwards: 1\r\nContent-Length: 100\r\n"
		"To: <sip:bench0000@%s:%d>\r\nFrom: <sip:bench0000@127.0.0.1:%d>;tag=%08lx\r\nCSeq: 10 KDMQ\r\nCall-ID: %016lx@127.0.0.1\r\n"
		"User-Agent: send\r\nContent-Type: text/plain\r\n\r\n%0100d",
		names[i], port, own_port, serial, names[i], port, own_port, serial & 0xffffffff, serial, 0);
}

/* One message of the call for each peer in it. */
static void finish(int used) {
	for (int i = 0; i < used; i++) {
		if (pieces[i].messages < 2) continue;
		struct msghdr *header = &out[i].msg_hdr;
		header->msg_control = pieces[i].control, header->msg_controllen = sizeof pieces[i].control;
		struct cmsghdr *c = CMSG_FIRSTHDR(header);
		uint16_t cut = (uint16_t)pieces[i].size;
		c->cmsg_level = IPPROTO_UDP, c->cmsg_type = UDP_SEGMENT, c->cmsg_len = CMSG_LEN(sizeof cut);
		memcpy(CMSG_DATA(c), &cut, sizeof cut);
	}
}

static void send_to_next(int wanted) {
	static int turn, call, called[PEERS], place[PEERS];
	int used = 0;
	call++;
	for (int i = 0; i < wanted; i++, turn = (turn + 1) % count) {
		if (called[turn] != call) {
			called[turn] = call, place[turn] = used;
			piece *fresh = &pieces[used];
			fresh->messages = 0, fresh->iov = (struct iovec){fresh->octets, 0};
			out[used++].msg_hdr = (struct msghdr){.msg_name = &peers[turn], .msg_namelen = sizeof peers[turn], .msg_iov = &fresh->iov, .msg_iovlen = 1};
		}
		piece *p = &pieces[place[turn]];
		p->size = write_message(p->octets + p->iov.iov_len, turn);
		p->iov.iov_len += (size_t)p->size, p->messages++;
	}
	finish(used);
	for (int sent = 0; sent < used;) {
		int n = sendmmsg(fd, out + sent, (unsigned)(used - sent), MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR && errno != ECONNREFUSED) die("sendmmsg");
		if (n > 0) sent += n;
	}
}

/* @returns how many answers have come */
static int receive(void) {
	static inbox in;
	size_t answers = 0;
	int pieces = read_pieces(fd, &in);
	for (int i = 0; i < pieces; i++) {
		size_t size = in.messages[i].msg_len, cut = cut_of(&in.messages[i]);
		if (size > 0) answers += (size + cut - 1) / cut;
	}
	return (int)answers;
}

static void keep_sending(double seconds, int under_way) {
	uint64_t now = now_ns(), end = now + (uint64_t)(seconds * 1e9), last = now, delivered = 0;
	int due = under_way;
	while ((now = now_ns()) < end) {
		if (due > 0) send_to_next(due), due = 0;
		struct epoll_event event;
		int n = epoll_wait(waiter, &event, 1, 100) > 0 ? receive() : 0;
		delivered += (uint64_t)n, due = n < under_way ? n : under_way;
		if (n > 0) last = now;
		/* None is repeated: what was lost is made up for. */
		else if (now - last > LOST_NS) due = under_way, last = now;
	}
	printf("{\"delivered\":%lu,\"failed\":0}\n", delivered);
	fflush(stdout);
	/* Answers that are still on their way are nobody's. */
	for (uint64_t until = now_ns() + 50000000ull; now_ns() < until;) receive();
}

int main(int argc, char **argv) {
	struct sockaddr_in own = {.sin_family = AF_INET};
	struct epoll_event event = {.events = EPOLLIN};
	struct in_addr first;
	char line[64];
	int one = 1;
	socklen_t size = sizeof own;
	count = (int)number(argc, argv, "count", 1), port = (int)number(argc, argv, "port", 5080);
	if (count < 1 || count > PEERS) count = PEERS;
	inet_pton(AF_INET, option(argc, argv, "first", "127.0.1.1"), &first);
	for (int i = 0; i < count; i++) {
		peers[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(ntohl(first.s_addr) + (uint32_t)i)};
		inet_ntop(AF_INET, &peers[i].sin_addr, names[i], sizeof names[i]);
	}
	fd = socket(AF_INET, SOCK_DGRAM, 0), waiter = epoll_create1(0);
	wide_buffers(fd);
	setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
	inet_pton(AF_INET, "127.0.0.1", &own.sin_addr);
	if (bind(fd, (struct sockaddr *)&own, sizeof own) != 0 || epoll_ctl(waiter, EPOLL_CTL_ADD, fd, &event) != 0) die("bind");
	getsockname(fd, (struct sockaddr *)&own, &size);
	own_port = ntohs(own.sin_port), serial = (uint64_t)getpid() << 32;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		double seconds;
		int under_way;
		if (sscanf(line, "send %lf %d", &seconds, &under_way) == 2 && under_way <= UNDER_WAY) keep_sending(seconds, under_way);
	}
	return 0;
}
