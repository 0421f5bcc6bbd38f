#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use super::*;
use crate::shutdown;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// Two sockets, the first of which has been read until there was nothing, so that the runtime says so until it asks the system again; then the other one has spoken.
async fn unheard(listener: &TcpListener) -> (TcpStream, TcpStream) {
    use std::io::Write;
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut near, _) = listener.accept().await.unwrap();
    let mut far = far.into_std().unwrap();
    far.write_all(b"1").unwrap();
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 1);
    assert!(near.try_read(&mut [0; 8]).is_err(), "nothing is left");
    far.write_all(b"2").unwrap();
    (near, TcpStream::from_std(far).unwrap())
}

/// What can be sent again goes over a connection that closes, and is sent again. Not so where what comes may be taken for the answer: the body that an answer to HEAD announced.
#[tokio::test]
async fn the_system_is_asked_for_news_of_a_connection_that_is_one_clients_only() {
    let (shared, policy) = rig::shared(&[]);
    let (_trigger, shutdown) = shutdown::new(policy.bell().clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Arc::new(Target::parse("a.test", Some(HTTP_PORT)).unwrap());
    for (bound, may_repeat, reused) in [(false, true, true), (true, true, false), (false, false, false), (true, false, false)] {
        let (client, _user) = unheard(&listener).await;
        let address = client.peer_addr().unwrap();
        let (stream, _origin) = unheard(&listener).await;
        let mut connection = Connection::new(Buffered::new(Stream::Tcp(client)), address, &shared, shutdown.clone());
        connection.bound = bound;
        connection.idle = Some((Arc::clone(&target), Idle::new(Buffered::new(Stream::Tcp(stream)), Leads::direct(), None)));
        let found = connection.reusable(&target, &None, may_repeat);
        assert_eq!(found.is_some(), reused, "bound: {bound}, may be sent again: {may_repeat}");
    }
}
