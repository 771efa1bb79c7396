//! A numbered request is executed once, whatever dies between its execution and its answer.

use crate::harness::Cluster;
use crate::process::Client;

/// Sends a request until its outcome is known: what any client does that numbers its writes.
fn insist(cluster: &Cluster, places: &[usize], line: &str) -> String {
    for attempt in 0..2000 {
        let place = places[attempt % places.len()];
        let answer = cluster.try_client(place).map(|mut client: Client| client.ask(line));
        match answer {
            Some(answer) if is_known(&answer) => return answer,
            _ => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    }
    panic!("{line}: no outcome");
}

fn is_known(answer: &str) -> bool {
    let unknown = ["-UNKNOWN", "-CLUSTERDOWN", "-TRYAGAIN", "-THROTTLED", "(no answer"];
    !unknown.iter().any(|word| answer.starts_with(word))
}

#[test]
fn a_retry_after_the_leader_died_gets_the_first_answer() {
    let mut cluster = Cluster::start(3);
    let session = insist(&cluster, &[0, 1, 2], "strandline session open");
    for round in 1..=3 {
        let leader = cluster.leader();
        let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
        // By the leader itself, and by a follower that forwards it.
        let through = if round % 2 == 0 { others[0] } else { leader };
        let line = format!("strandline session do {session} {round} incr n");
        let mut client = cluster.client(through);
        client.send(&line);
        // It is executed when others read it. Nobody has taken the answer.
        cluster.client(others[1]).await_answer("get n", &round.to_string());
        cluster.kill(leader);
        assert_eq!(insist(&cluster, &others, &line), round.to_string());
        assert_eq!(insist(&cluster, &others, "get n"), round.to_string());
        cluster.restart(leader);
        cluster.client(leader).await_answer("get n", &round.to_string());
        // And on the node that has come back.
        assert_eq!(insist(&cluster, &[leader], &line), round.to_string());
    }
}

#[test]
fn what_a_stopped_leader_had_taken_is_counted_once_with_its_retry() {
    let cluster = Cluster::start(3);
    let session = insist(&cluster, &[0, 1, 2], "strandline session open");
    let mut sum = 0;
    for round in 1..=3 {
        let leader = cluster.leader();
        let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
        let lines: Vec<String> = (0..8)
            .map(|at| {
                format!("strandline session do {session} {} incr n", 8 * (round - 1) + at + 1)
            })
            .collect();
        let mut client = cluster.client(leader);
        lines.iter().for_each(|line| client.send(line));
        cluster.signal(leader, "-STOP");
        cluster.leader_among(&others);
        let first: Vec<String> = lines.iter().map(|line| insist(&cluster, &others, line)).collect();
        cluster.signal(leader, "-CONT");
        // The leader that was answers its client, or says that it does not know: never another number.
        for (line, first) in lines.iter().zip(&first) {
            let late = client.take().unwrap();
            assert!(late == *first || !is_known(&late), "{line}: {late}, and {first} before");
            assert_eq!(&insist(&cluster, &[leader], line), first, "{line}");
        }
        sum += lines.len();
        assert_eq!(insist(&cluster, &others, "get n"), sum.to_string());
    }
}

#[test]
fn who_numbers_wrongly_is_told() {
    let cluster = Cluster::start(3);
    let never = insist(&cluster, &[1], "strandline session do 999999 1 incr n");
    assert!(never.starts_with("-EXPIRED session 999999"), "{never}");
    let session = insist(&cluster, &[0], "strandline session open");
    let set = |number: u32, place: usize| {
        insist(&cluster, &[place], &format!("strandline session do {session} {number} incr n"))
    };
    assert_eq!((set(1, 0), set(200, 1)), ("1".to_owned(), "2".to_owned()));
    assert!(set(1, 2).starts_with("-EXPIRED request 1"));
    let read = insist(&cluster, &[0], &format!("strandline session do {session} 201 get n"));
    assert!(read.starts_with("-ERR"), "{read}");
    assert_eq!(insist(&cluster, &[2], "get n"), "2");
}
