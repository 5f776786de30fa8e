"""What mailing lists remember, over the end of a process and beside another one."""

from pathlib import Path

from gatepost.queue.list_store import DAY, HeldPost, ListStore
from gatepost.routing.members import Member, MemberState

TEAM = "team@here.test"
BOB = "Bob@far.test"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_written_before_there_is_something_to_keep(tmp_path: Path) -> None:
    store = ListStore(tmp_path)
    assert (store.revision(), store.book(), store.waiting(), store.held()) == (0, (0, {}), {}, [])
    assert list(tmp_path.iterdir()) == []


def test_another_process_sees_what_a_member_asked_for(tmp_path: Path) -> None:
    one, other = ListStore(tmp_path), ListStore(tmp_path)
    one.put_member(TEAM, Member(BOB, digest=True))
    seen, book = other.book()
    assert list(book[TEAM].values()) == [Member(BOB, digest=True)]
    one.put_member(TEAM, Member(BOB, MemberState.UNSUBSCRIBED))
    assert other.revision() > seen


def test_bounces_count_once_each_and_begin_anew_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    store = ListStore(tmp_path, clock)
    assert not store.bounced(TEAM, BOB, b"1", 2, 14)
    assert not store.bounced(TEAM, BOB, b"1", 2, 14)  # the same report again, after a crash
    clock.now += 15 * DAY
    assert not store.bounced(TEAM, BOB, b"2", 2, 14)
    clock.now += DAY
    assert store.bounced(TEAM, BOB, b"3", 2, 14)
    assert not store.bounced(TEAM, BOB, b"4", 2, 14)  # disabled already: told once
    assert [one.member.state for one in store.records(TEAM).values()] == [MemberState.DISABLED]


def test_an_issue_that_was_begun_goes_on_after_a_restart_and_later_posts_wait_for_the_next(tmp_path: Path) -> None:
    store = ListStore(tmp_path)
    assert store.collect(TEAM, b"1", b"first") and not store.collect(TEAM, b"1", b"first")
    issue = store.begin_issue(TEAM)
    store.sent(issue, "a@far.test")
    store.collect(TEAM, b"2", b"second")
    store.close()
    again = ListStore(tmp_path)
    resumed = again.begin_issue(TEAM)
    assert (resumed.number, resumed.after, [octets for octets, _ in resumed.posts]) == (issue.number, "a@far.test", [b"first"])
    again.end_issue(resumed)
    following = again.begin_issue(TEAM)
    assert (following.number, following.after, [octets for octets, _ in following.posts]) == (issue.number + 1, "", [b"second"])


def test_a_post_that_waits_is_there_once_until_it_is_settled(tmp_path: Path) -> None:
    store = ListStore(tmp_path)
    post = HeldPost(TEAM, b"m" * 16, "x@far.test", "X <x@far.test>", "hello", 1)
    assert store.hold(post) and not store.hold(post)
    assert store.held(TEAM) == [post] and store.held("other@here.test") == []
    store.settle(TEAM, post.message_id)
    assert store.held() == []
