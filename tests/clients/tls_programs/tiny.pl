use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use HTTP::Tiny;

# Not the default before version 0.083.
my $agent = HTTP::Tiny->new(verify_SSL => 1, timeout => 30);
my $answer = $agent->get("$ARGV[0]/blob");
die "$answer->{status} $answer->{content}\n" unless $answer->{success};
print "GET $answer->{status} ", sha256_hex($answer->{content}), " $answer->{protocol}\n";
$answer = $agent->post("$ARGV[0]/echo", {content => "sent by HTTP::Tiny"});
print "POST $answer->{status} ", $answer->{headers}{"x-proxy-error"} // "-", "\n$answer->{content}\n";
