use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use LWP::UserAgent;

my $agent = LWP::UserAgent->new(env_proxy => 1, timeout => 30, keep_alive => 1);
my $answer = $agent->get("$ARGV[0]/blob");
die $answer->status_line . "\n" . $answer->decoded_content . "\n" unless $answer->is_success;
print "GET ", $answer->code, " ", sha256_hex($answer->content), " ", $answer->protocol, "\n";
$answer = $agent->post("$ARGV[0]/echo", Content => "sent by LWP");
print "POST ", $answer->code, " ", $answer->header("x-proxy-error") // "-", "\n", $answer->content, "\n";
